// SPDX-License-Identifier: Apache-2.0
#include "coordinator/core/redundancy.h"

#include <algorithm>

namespace shoal {

Redundancy CountRedundancy(const ExpertPlacement& placement, absl::Span<const int> live_host) {
  Redundancy redundancy;
  redundancy.ranks.resize(placement.world_size());
  bool first = true;
  std::vector<int> hosts;  // of an expert's live holders
  for (int layer = 0; layer < placement.layers(); ++layer) {
    for (int expert = 0; expert < placement.n_routed_experts(layer); ++expert) {
      hosts.clear();
      for (const RankId rank : placement.Holders(layer, ExpertId(expert))) {
        ++redundancy.ranks[rank.value()].experts;
        if (live_host[rank.value()] >= 0) hosts.push_back(live_host[rank.value()]);
      }
      const int holders = static_cast<int>(hosts.size());
      std::sort(hosts.begin(), hosts.end());
      hosts.erase(std::unique(hosts.begin(), hosts.end()), hosts.end());
      const int on_hosts = static_cast<int>(hosts.size());
      redundancy.least_hosts = first ? on_hosts : std::min(redundancy.least_hosts, on_hosts);
      redundancy.least_holders = first ? holders : std::min(redundancy.least_holders, holders);
      redundancy.most_holders = std::max(redundancy.most_holders, holders);
      first = false;
      if (holders != 1 && holders != 2) continue;
      for (const RankId rank : placement.Holders(layer, ExpertId(expert))) {
        if (live_host[rank.value()] < 0) continue;
        Redundancy::Rank& left = redundancy.ranks[rank.value()];
        ++(holders == 2 ? left.left_with_one : left.left_with_none);
      }
    }
  }
  return redundancy;
}

}  // namespace shoal
