// SPDX-License-Identifier: Apache-2.0
// A sequence that kills every worker that runs it must not bring the unit down over and over; but
// nobody knows that it is to blame, so it must not fail either. After a few deaths without progress
// it is held back before it is tried again, longer after each further one; all others go on.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/time/time.h"
#include "coordinator/core/serving_state.h"

namespace shoal {

// The workers of these ranks are dead. Holds back those of the waiting queue that ran there in this
// epoch and have seen too many deaths.
void CountDeaths(ServingState& state, const std::vector<RankId>& lost, absl::Time now);

// Lets those whose time has come wait for a place again.
void EndBackoffs(ServingState& state, absl::Time now);

// Requests that have begun, of which all that is left is held back.
int64_t RequestsBackingOff(const ServingState& state);

}  // namespace shoal
