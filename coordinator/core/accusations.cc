// SPDX-License-Identifier: Apache-2.0
#include "coordinator/core/accusations.h"

#include <algorithm>
#include <tuple>

namespace shoal {

std::vector<RankId> LeaveOut(absl::Span<const Accusation> accusations,
                             absl::Span<const int64_t> joined) {
  std::vector<Accusation> open(accusations.begin(), accusations.end());
  std::vector<RankId> out;
  while (!open.empty()) {
    std::vector<std::tuple<int, int, int64_t>> weight(joined.size());
    for (size_t rank = 0; rank < joined.size(); ++rank) std::get<2>(weight[rank]) = joined[rank];
    for (const Accusation& accusation : open) {
      ++std::get<0>(weight[accusation.by.value()]);
      ++std::get<0>(weight[accusation.of.value()]);
      ++std::get<1>(weight[accusation.of.value()]);
    }
    const auto heaviest = std::max_element(weight.begin(), weight.end());
    const RankId rank(static_cast<int32_t>(heaviest - weight.begin()));
    out.push_back(rank);
    std::erase_if(open, [&](const Accusation& accusation) {
      return accusation.by == rank || accusation.of == rank;
    });
  }
  return out;
}

}  // namespace shoal
