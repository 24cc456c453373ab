// SPDX-License-Identifier: Apache-2.0
#include "engine/config/expert_targets.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "engine/base/check.h"

namespace shoal {
namespace {

// The holders of each expert that are as near to the source as any.
std::vector<std::vector<RankId>> NearestHolders(const ExpertPlacement& placement, int layer,
                                                RankId source, absl::Span<const int> host_of_rank) {
  std::vector<std::vector<RankId>> nearest(placement.n_routed_experts(layer));
  for (size_t e = 0; e < nearest.size(); ++e) {
    const auto all = placement.Holders(layer, ExpertId(static_cast<int32_t>(e)));
    for (const RankId rank : all) {
      if (host_of_rank.empty() || host_of_rank[rank.value()] == host_of_rank[source.value()]) {
        nearest[e].push_back(rank);
      }
    }
    if (nearest[e].empty()) nearest[e].assign(all.begin(), all.end());
  }
  return nearest;
}

}  // namespace

ExpertTargets::ExpertTargets(const ExpertPlacement& placement, RankId source,
                             absl::Span<const int> host_of_rank)
    : targets_(placement.layers()) {
  const int world = placement.world_size();
  SHOAL_CHECK(host_of_rank.empty() || static_cast<int>(host_of_rank.size()) == world);
  std::vector<double> load(world);  // in experts
  std::vector<int> order;
  for (int layer = 0; layer < placement.layers(); ++layer) {
    std::vector<std::vector<RankId>> nearest =
        NearestHolders(placement, layer, source, host_of_rank);
    targets_[layer].resize(nearest.size());
    std::fill(load.begin(), load.end(), 0.0);
    order.resize(nearest.size());
    std::iota(order.begin(), order.end(), 0);
    // Those without a choice first.
    std::stable_sort(order.begin(), order.end(),
                     [&](int a, int b) { return nearest[a].size() < nearest[b].size(); });
    const size_t fewest = order.empty() ? 0 : nearest[order.front()].size();
    for (const int expert : order) {
      std::vector<RankId>& holders = nearest[expert];
      // Of equally loaded ones another is first in each layer.
      const auto rank_of = [&](RankId rank) {
        return std::make_pair(load[rank.value()], (rank.value() + layer) % world);
      };
      std::sort(holders.begin(), holders.end(),
                [&](RankId a, RankId b) { return rank_of(a) < rank_of(b); });
      const size_t sharing = holders.size() - fewest + 1;
      for (size_t i = 0; i < sharing; ++i) load[holders[i].value()] += 1.0 / sharing;
      const absl::Span<const RankId> chosen = absl::MakeConstSpan(holders).first(sharing);
      // The how-manieth it is of those that are not chosen themselves; another first for each expert.
      const auto turn = static_cast<size_t>(
          expert + source.value() - std::count_if(chosen.begin(), chosen.end(),
                                         [&](RankId rank) { return rank < source; }));
      const bool is_chosen = std::find(chosen.begin(), chosen.end(), source) != chosen.end();
      targets_[layer][expert] = is_chosen ? source : chosen[turn % sharing];
    }
  }
}

}  // namespace shoal
