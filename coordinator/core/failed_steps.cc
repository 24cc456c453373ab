// SPDX-License-Identifier: Apache-2.0
#include "coordinator/core/failed_steps.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

namespace shoal {
namespace {

// Two failures may be two accidents, if they come one upon the other.
constexpr int kMany = 3;
constexpr absl::Duration kLong = absl::Seconds(5);
// What fails without a timeout fails at once.
constexpr absl::Duration kSteady = absl::Seconds(1);

std::pair<RankId, RankId> PairOf(const Accusation& wait) { return std::minmax(wait.by, wait.of); }

}  // namespace

void FailedSteps::Begin(Epoch epoch, const absl::Status& why, absl::Time now) {
  Conclude();
  if (count_++ == 0) {
    first_ = now;
    committed_between_ = false;
  }
  since_ = std::min(since_, now);
  timed_out_ = absl::IsDeadlineExceeded(why);
  last_epoch_ = epoch;
}

void FailedSteps::Conclude() {
  std::erase_if(before_, [&](const Wait& wait) { return wait.failure + kMany <= count_; });
  const auto conclude = [&](bool all) {
    const size_t old = before_.size();
    for (size_t by = 0; by < last_.size(); ++by) {
      const RankId rank(static_cast<int32_t>(by));
      for (const RankId of : last_[by]) {
        const bool waits =
            static_cast<size_t>(of.value()) < last_.size() && !last_[of.value()].empty();
        if (all || !waits ||
            std::binary_search(last_[of.value()].begin(), last_[of.value()].end(), rank)) {
          before_.push_back({{rank, of}, count_});
        }
      }
    }
    return before_.size() > old;
  };
  if (!conclude(false)) conclude(true);  // they wait in a circle
  last_.clear();
}

void FailedSteps::Add(Epoch epoch, RankId by, absl::Span<const RankId> waited_for) {
  if (count_ == 0 || epoch != last_epoch_ || waited_for.empty()) return;
  if (last_.size() <= static_cast<size_t>(by.value())) last_.resize(by.value() + 1);
  std::vector<RankId>& waits = last_[by.value()];
  if (!waits.empty()) return;  // it has spoken
  waits.assign(waited_for.begin(), waited_for.end());
  std::sort(waits.begin(), waits.end());
}

bool FailedSteps::Committed(absl::Duration since_first) {
  committed_between_ = true;
  if (since_first <= (timed_out_ ? step_timeout_ : kSteady)) return false;
  End();
  return true;
}

std::vector<Accusation> FailedSteps::ToBlame(absl::Time now) const {
  std::vector<Accusation> blamed;
  if (count_ < kMany && now - first_ <= kLong) return blamed;
  if (!committed_between_) {
    for (const Wait& wait : before_) blamed.push_back(wait.accusation);
    return blamed;
  }
  std::vector<Wait> waits = before_;
  for (size_t by = 0; by < last_.size(); ++by) {
    for (const RankId of : last_[by]) {
      waits.push_back({{RankId(static_cast<int32_t>(by)), of}, count_});
    }
  }
  std::map<std::pair<RankId, RankId>, std::set<int>> of_pair;
  std::map<int, std::set<RankId>> ends;  // of all waits of a failure
  for (const auto& [wait, failure] : waits) {
    of_pair[PairOf(wait)].insert(failure);
    const auto [common, first] = ends.try_emplace(failure, std::set<RankId>{wait.by, wait.of});
    if (first) continue;
    std::erase_if(common->second,
                  [&wait = wait](RankId rank) { return rank != wait.by && rank != wait.of; });
  }
  std::map<RankId, int> of_rank;
  for (const auto& [failure, ranks] : ends) {
    for (const RankId rank : ranks) ++of_rank[rank];
  }
  for (const auto& [wait, failure] : before_) {
    if (of_pair[PairOf(wait)].size() > 1 || of_rank[wait.by] >= kMany ||
        of_rank[wait.of] >= kMany) {
      blamed.push_back(wait);
    }
  }
  return blamed;
}

void FailedSteps::Forget(const std::vector<RankId>& ranks) {
  last_.clear();
  last_epoch_ = Epoch();
  std::erase_if(before_, [&](const Wait& wait) {
    return std::binary_search(ranks.begin(), ranks.end(), wait.accusation.by) ||
           std::binary_search(ranks.begin(), ranks.end(), wait.accusation.of);
  });
  if (before_.empty()) Restart();
}

void FailedSteps::End() {
  Restart();
  since_ = absl::InfiniteFuture();
}

void FailedSteps::Restart() {
  count_ = 0;
  last_.clear();
  before_.clear();
}

}  // namespace shoal
