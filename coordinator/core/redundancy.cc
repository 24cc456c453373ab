// SPDX-License-Identifier: Apache-2.0
#include "coordinator/core/redundancy.h"

#include <algorithm>

namespace shoal {

Redundancy CountRedundancy(const ExpertPlacement& placement, const std::vector<bool>& live) {
  Redundancy redundancy;
  redundancy.ranks.resize(placement.world_size());
  bool first = true;
  for (int layer = 0; layer < placement.layers(); ++layer) {
    for (int expert = 0; expert < placement.n_routed_experts(layer); ++expert) {
      int holders = 0;
      for (const RankId rank : placement.Holders(layer, ExpertId(expert))) {
        ++redundancy.ranks[rank.value()].experts;
        if (live[rank.value()]) ++holders;
      }
      redundancy.least_holders = first ? holders : std::min(redundancy.least_holders, holders);
      redundancy.most_holders = std::max(redundancy.most_holders, holders);
      first = false;
      if (holders != 1 && holders != 2) continue;
      for (const RankId rank : placement.Holders(layer, ExpertId(expert))) {
        if (!live[rank.value()]) continue;
        Redundancy::Rank& left = redundancy.ranks[rank.value()];
        ++(holders == 2 ? left.left_with_one : left.left_with_none);
      }
    }
  }
  return redundancy;
}

}  // namespace shoal
