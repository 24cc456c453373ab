// SPDX-License-Identifier: Apache-2.0
// What the end of an epoch and the beginning of the next one do to batches, queue and caches. No
// request ends by it: sequences whose worker stays are rewound to what is committed, all others go to
// the front of the queue and are computed again.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/time/time.h"
#include "coordinator/core/events.h"
#include "coordinator/core/membership.h"
#include "coordinator/core/serving_state.h"

namespace shoal {

struct Interrupted {
  int64_t rewound = 0;
  int64_t replayed = 0;
  std::vector<RankId> lost;
};

// The epoch is over: no step in flight will be committed. Also between epochs, when a member of the
// next one is lost. Ranks whose worker is not here any more, or left out, become absent. A sequence
// that has lost its worker to death time and again without any progress is held back.
Interrupted EndEpoch(ServingState& state, const Roster& roster, absl::Time now);

// All members of the membership's epoch are ready. Ends requests that are too large for every rank,
// if the largest one has shrunk.
void BeginEpoch(ServingState& state, const Membership& membership, absl::Time now,
                std::vector<Command>& commands);

}  // namespace shoal
