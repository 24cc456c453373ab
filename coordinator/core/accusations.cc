// SPDX-License-Identifier: Apache-2.0
#include "coordinator/core/accusations.h"

#include <algorithm>
#include <tuple>
#include <utility>

namespace shoal {
namespace {

// After the first accusation, for the others to come: both ends of a link that is cut wait equally
// long.
constexpr absl::Duration kGrace = absl::Milliseconds(300);

// A search through all there is would take too long in a large unit where nothing will do.
constexpr int kMostDeadEnds = 100;

class Search {
 public:
  Search(absl::Span<const Accusation> accusations, absl::Span<const int64_t> joined,
         absl::FunctionRef<bool(absl::Span<const RankId>)> can_do_without)
      : accusations_(accusations),
        joined_(joined),
        can_do_without_(can_do_without),
        open_(accusations.size(), true),
        of_rank_(joined.size()),
        weight_(joined.size()),
        against_(joined.size()) {
    for (size_t i = 0; i < accusations.size(); ++i) {
      const Accusation& accusation = accusations[i];
      of_rank_[accusation.by.value()].push_back(i);
      if (accusation.of != accusation.by) of_rank_[accusation.of.value()].push_back(i);
      Count(accusation, 1);
    }
  }

  // Adds to `out` ranks without whom no accusation is open. False: it found none, and added none.
  bool Finish() {
    const RankId rank = Heaviest();
    if (weight_[rank.value()] == 0) return true;
    std::vector<RankId> others;  // will do as well
    for (const size_t i : of_rank_[rank.value()]) {
      if (!open_[i]) continue;
      others.push_back(accusations_[i].by == rank ? accusations_[i].of : accusations_[i].by);
    }
    std::sort(others.begin(), others.end());
    others.erase(std::unique(others.begin(), others.end()), others.end());
    if (FinishWithout({rank})) return true;
    if (out.empty()) dead_ends_ = 0;  // the other half of all there is has its own
    return FinishWithout(others);
  }

  // What was added later may do for what was added first.
  void TakeBackTheNeedless() {
    std::vector<bool> is_out(joined_.size(), false);
    for (const RankId rank : out) is_out[rank.value()] = true;
    std::erase_if(out, [&](RankId rank) {
      for (const size_t i : of_rank_[rank.value()]) {
        const Accusation& accusation = accusations_[i];
        const RankId other = accusation.by == rank ? accusation.of : accusation.by;
        if (other == rank || !is_out[other.value()]) return false;
      }
      is_out[rank.value()] = false;
      return true;
    });
  }

  std::vector<RankId> out;

 private:
  bool FinishWithout(const std::vector<RankId>& ranks) {
    if (dead_ends_ == kMostDeadEnds) return false;
    out.insert(out.end(), ranks.begin(), ranks.end());
    std::vector<size_t> closed;
    for (const RankId rank : ranks) {
      for (const size_t i : of_rank_[rank.value()]) {
        if (!std::exchange(open_[i], false)) continue;
        Count(accusations_[i], -1);
        closed.push_back(i);
      }
    }
    if (can_do_without_(out) && Finish()) return true;
    for (const size_t i : closed) {
      open_[i] = true;
      Count(accusations_[i], 1);
    }
    out.resize(out.size() - ranks.size());
    dead_ends_ = std::min(dead_ends_ + 1, kMostDeadEnds);
    return false;
  }

  void Count(const Accusation& accusation, int by) {
    weight_[accusation.by.value()] += by;
    weight_[accusation.of.value()] += by;
    against_[accusation.of.value()] += by;
  }

  RankId Heaviest() const {
    size_t best = 0;
    for (size_t rank = 1; rank < joined_.size(); ++rank) {
      if (std::tie(weight_[rank], against_[rank], joined_[rank]) >
          std::tie(weight_[best], against_[best], joined_[best])) {
        best = rank;
      }
    }
    return RankId(static_cast<int32_t>(best));
  }

  const absl::Span<const Accusation> accusations_;
  const absl::Span<const int64_t> joined_;
  const absl::FunctionRef<bool(absl::Span<const RankId>)> can_do_without_;
  std::vector<char> open_;                    // by accusation
  std::vector<std::vector<size_t>> of_rank_;  // accusations, open or not
  std::vector<int> weight_;                   // by rank: open ones by it and of it
  std::vector<int> against_;                  // of it
  int dead_ends_ = 0;
};

}  // namespace

void Accusations::Add(RankId by, absl::Span<const RankId> unreached, const absl::Status& why,
                      absl::Time now) {
  if (accusers_++ == 0) {
    since_ = now;
    why_ = std::string(why.message());
  }
  for (const RankId of : unreached) all_.push_back({by, of});
  if (unreached.empty()) all_.push_back({by, by});
}

void Accusations::Clear() {
  all_.clear();
  accusers_ = 0;
}

bool Accusations::Complete(int unready, absl::Time now) const {
  return accusers_ > 0 && (accusers_ == unready || now - since_ >= kGrace);
}

std::vector<RankId> LeaveOut(absl::Span<const Accusation> accusations,
                             absl::Span<const int64_t> joined,
                             absl::FunctionRef<bool(absl::Span<const RankId>)> can_do_without) {
  Search search(accusations, joined, can_do_without);
  search.Finish();
  search.TakeBackTheNeedless();
  return std::move(search.out);
}

}  // namespace shoal
