// SPDX-License-Identifier: Apache-2.0
// The door: which requests are taken in, and what the others are told.
#pragma once

#include <vector>

#include "absl/time/time.h"
#include "coordinator/core/events.h"
#include "coordinator/core/serving_state.h"

namespace shoal {

// Queues the request, or Rejects it: InvalidArgument (absurd values, or more blocks than any rank
// has), Unavailable (draining), DeadlineExceeded, ResourceExhausted (the queue is full; with an
// estimate of when it is not). One whose id is live already is ignored.
void Arrive(ServingState& state, Request request, absl::Time now, std::vector<Command>& commands);

// Ends requests that no rank could ever hold: to be called when the largest one is known, or shrinks.
void EndOversized(ServingState& state, absl::Time now, std::vector<Command>& commands);

}  // namespace shoal
