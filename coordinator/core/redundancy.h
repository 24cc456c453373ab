// SPDX-License-Identifier: Apache-2.0
// How well experts are held at this moment, and what the death of each rank would leave: plain
// counts over the placement, for people and metrics.
#pragma once

#include <vector>

#include "absl/types/span.h"
#include "engine/config/expert_placement.h"

namespace shoal {

struct Redundancy {
  struct Rank {
    int experts = 0;        // held, over all layers
    int left_with_one = 0;  // of them, those that would have one live holder if this rank died
    int left_with_none = 0;
  };
  // Live holders of the expert that has the fewest, and the most. Zero without experts.
  int least_holders = 0;
  int most_holders = 0;
  // Hosts of the live holders of the expert that has them on the fewest.
  int least_hosts = 0;
  std::vector<Rank> ranks;  // of a rank that is not live only `experts` says anything
};

// live_host: by rank, an index of the host it runs on; -1: the rank is not live.
Redundancy CountRedundancy(const ExpertPlacement& placement, absl::Span<const int> live_host);

}  // namespace shoal
