// SPDX-License-Identifier: Apache-2.0
// Which holder computes a rank's rows of each expert: the nearest ones, then the least loaded one. A
// pure function of placement, hosts and rank, so never of timing.
//
// Of the holders on the source's host (of all, if none is there), as many share the rows of an expert
// as it has more than the layer's expert with the fewest: those copies are there to carry load, the
// others for when a holder dies. Rows of one expert stay together otherwise, because whoever computes
// any of them reads all the weights of the expert. Which holders that are is balanced over the layer.
#pragma once

#include <vector>

#include "absl/types/span.h"
#include "engine/base/ids.h"
#include "engine/config/expert_placement.h"

namespace shoal {

class ExpertTargets {
 public:
  // host_of_rank: ranks with equal numbers share a host; empty: all do.
  ExpertTargets(const ExpertPlacement& placement, RankId source,
                absl::Span<const int> host_of_rank = {});

  RankId Of(int layer, ExpertId expert) const { return targets_[layer][expert.value()]; }

 private:
  std::vector<std::vector<RankId>> targets_;
};

}  // namespace shoal
