// SPDX-License-Identifier: Apache-2.0
#include "coordinator/core/accusations.h"

#include <algorithm>
#include <tuple>
#include <utility>

namespace shoal {
namespace {

// A search through all there is would take too long in a large unit where nothing will do.
constexpr int kMostDeadEnds = 100;

class Search {
 public:
  Search(absl::Span<const Accusation> accusations, absl::Span<const int64_t> joined,
         absl::FunctionRef<bool(absl::Span<const RankId>)> can_do_without)
      : accusations_(accusations), joined_(joined), can_do_without_(can_do_without) {}

  // Adds to `out` ranks without whom no accusation is left. False: it found none, and added none.
  bool Finish() {
    std::vector<RankId> first;
    std::vector<RankId> second;  // will do as well
    {
      const std::vector<Accusation> open = Open();
      if (open.empty()) return true;
      const RankId rank = Heaviest(open);
      first.push_back(rank);
      for (const Accusation& accusation : open) {
        if (accusation.by == rank) second.push_back(accusation.of);
        if (accusation.of == rank) second.push_back(accusation.by);
      }
    }
    std::sort(second.begin(), second.end());
    second.erase(std::unique(second.begin(), second.end()), second.end());
    return FinishWithout(first) || FinishWithout(second);
  }

  std::vector<RankId> out;

 private:
  bool FinishWithout(const std::vector<RankId>& ranks) {
    if (dead_ends_ == kMostDeadEnds) return false;
    out.insert(out.end(), ranks.begin(), ranks.end());
    if (can_do_without_(out) && Finish()) return true;
    out.resize(out.size() - ranks.size());
    dead_ends_ = std::min(dead_ends_ + 1, kMostDeadEnds);
    return false;
  }

  std::vector<Accusation> Open() const {
    std::vector<bool> is_out(joined_.size());
    for (const RankId rank : out) is_out[rank.value()] = true;
    std::vector<Accusation> open;
    for (const Accusation& accusation : accusations_) {
      if (is_out[accusation.by.value()] || is_out[accusation.of.value()]) continue;
      open.push_back(accusation);
    }
    return open;
  }

  RankId Heaviest(const std::vector<Accusation>& open) const {
    std::vector<std::tuple<int, int, int64_t>> weight(joined_.size());
    for (size_t rank = 0; rank < joined_.size(); ++rank) std::get<2>(weight[rank]) = joined_[rank];
    for (const Accusation& accusation : open) {
      ++std::get<0>(weight[accusation.by.value()]);
      ++std::get<0>(weight[accusation.of.value()]);
      ++std::get<1>(weight[accusation.of.value()]);
    }
    const auto heaviest = std::max_element(weight.begin(), weight.end());
    return RankId(static_cast<int32_t>(heaviest - weight.begin()));
  }

  const absl::Span<const Accusation> accusations_;
  const absl::Span<const int64_t> joined_;
  const absl::FunctionRef<bool(absl::Span<const RankId>)> can_do_without_;
  int dead_ends_ = 0;
};

}  // namespace

std::vector<RankId> LeaveOut(absl::Span<const Accusation> accusations,
                             absl::Span<const int64_t> joined,
                             absl::FunctionRef<bool(absl::Span<const RankId>)> can_do_without) {
  Search search(accusations, joined, can_do_without);
  search.Finish();
  return std::move(search.out);
}

}  // namespace shoal
