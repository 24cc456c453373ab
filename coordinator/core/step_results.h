// SPDX-License-Identifier: Apache-2.0
// What ranks report of steps, and the commit rule: tokens of a step count, and are emitted, only
// when every rank of the epoch has finished it. Steps are committed in order.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/core/events.h"
#include "coordinator/core/serving_state.h"

namespace shoal {

// Files a rank's results of a step in flight. Reports of other steps, and second ones, are ignored
// (false); so are tokens that nobody asked for. Internal: the report lacks something the plan asked for or
// contradicts it, so the worker cannot be trusted any more; the unit must not go on.
absl::StatusOr<bool> FileResults(ServingState& state, RankId rank, const StepDone& event);

// Commits the steps that all ranks have finished: tokens become known and are emitted, choices end.
void CommitSteps(ServingState& state, absl::Time now, std::vector<Command>& commands);

// Ranks that have not reported the oldest step although its time is over; empty in good times.
std::vector<RankId> OverdueRanks(const ServingState& state, absl::Time now);

}  // namespace shoal
