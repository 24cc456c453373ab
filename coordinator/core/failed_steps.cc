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
  std::map<RankId, std::set<RankId>> waits;
  for (const Accusation& wait : last_) waits[wait.by].insert(wait.of);
  const size_t old = before_.size();
  for (const Accusation& wait : last_) {
    const auto peer = waits.find(wait.of);
    if (peer == waits.end() || peer->second.contains(wait.by)) before_.push_back({wait, count_});
  }
  if (before_.size() == old) {  // they wait in a circle
    for (const Accusation& wait : last_) before_.push_back({wait, count_});
  }
  last_.clear();
}

void FailedSteps::Add(Epoch epoch, RankId by, absl::Span<const RankId> waited_for) {
  if (count_ == 0 || epoch != last_epoch_) return;
  const bool has_spoken = std::any_of(last_.begin(), last_.end(),
                                      [&](const Accusation& wait) { return wait.by == by; });
  if (has_spoken) return;
  for (const RankId of : waited_for) last_.push_back({by, of});
}

bool FailedSteps::Committed(absl::Duration age) {
  committed_between_ = true;
  if (age <= (timed_out_ ? step_timeout_ : kSteady)) return false;
  End();
  return true;
}

std::vector<Accusation> FailedSteps::ToBlame(absl::Time now) const {
  std::vector<Accusation> blamed;
  if (count_ < kMany && now - first_ <= kLong) return blamed;
  std::map<std::pair<RankId, RankId>, std::set<int>> failures;  // of each pair
  for (const Wait& wait : before_) failures[PairOf(wait.accusation)].insert(wait.failure);
  for (const Accusation& wait : last_) failures[PairOf(wait)].insert(count_);
  for (const Wait& wait : before_) {
    if (committed_between_ && failures[PairOf(wait.accusation)].size() < 2) continue;
    blamed.push_back(wait.accusation);
  }
  return blamed;
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
