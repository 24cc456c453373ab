// SPDX-License-Identifier: Apache-2.0
#include "coordinator/core/waiting_matrix.h"

#include <algorithm>

namespace shoal {
namespace {

constexpr float kStragglerFactor = 2;          // beyond the median of the other ranks
constexpr float kStragglerShareOfStep = 0.1f;  // and of a step

// The lower one of an even number; zero of nothing.
float Median(std::vector<float> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<int64_t>((values.size() - 1) / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace

WaitingMatrix::WaitingMatrix(int ranks, absl::Duration longest)
    : ranks_(ranks), longest_(longest), step_(ranks, 0.0f), reported_(ranks, false) {}

float WaitingMatrix::Seconds(absl::Duration waited) const {
  return static_cast<float>(
      absl::ToDoubleSeconds(std::clamp(waited, absl::ZeroDuration(), longest_)));
}

void WaitingMatrix::Smooth(float& value, float newest, bool first) const {
  value = first ? newest : value + kNewest * (newest - value);
}

void WaitingMatrix::Add(RankId destination, const StepDone& report) {
  const auto ranks = static_cast<size_t>(ranks_);
  if (report.waiting_dispatch.size() != ranks || report.waiting_combine.size() != ranks) return;
  if (dispatch_.empty()) {
    dispatch_.resize(ranks * ranks, 0.0f);
    combine_.resize(ranks * ranks, 0.0f);
  }
  const int d = destination.value();
  const bool first = !reported_[d];
  for (int source = 0; source < ranks_; ++source) {
    Smooth(dispatch_[At(source, d)], Seconds(report.waiting_dispatch[source]), first);
    Smooth(combine_[At(source, d)], Seconds(report.waiting_combine[source]), first);
  }
  Smooth(step_[d], Seconds(report.busy) + Seconds(report.waiting), first);
  reported_[d] = true;
}

void WaitingMatrix::Forget(RankId rank) {
  reported_[rank.value()] = false;
  step_[rank.value()] = 0;
  if (dispatch_.empty()) return;
  for (int other = 0; other < ranks_; ++other) {
    dispatch_[At(rank.value(), other)] = combine_[At(rank.value(), other)] = 0;
    dispatch_[At(other, rank.value())] = combine_[At(other, rank.value())] = 0;
  }
}

WaitingSnapshot WaitingMatrix::Snapshot() const {
  WaitingSnapshot snapshot;
  const auto reporters =
      static_cast<float>(std::count(reported_.begin(), reported_.end(), true));
  if (reporters == 0) return snapshot;
  if (ranks_ <= kMaxShown) {
    for (int source = 0; source < ranks_; ++source) {
      for (int d = 0; d < ranks_; ++d) {
        snapshot.dispatch.push_back(dispatch_[At(source, d)]);
        snapshot.combine.push_back(combine_[At(source, d)]);
      }
    }
  }
  float step = 0;
  for (const float seconds : step_) step += seconds / reporters;
  snapshot.waited_for.resize(ranks_, 0.0f);
  for (int d = 0; d < ranks_; ++d) {
    if (!reported_[d]) continue;
    for (int source = 0; source < ranks_; ++source) {
      const float others = reporters - (reported_[source] ? 1.0f : 0.0f);
      if (d == source || others == 0) continue;
      snapshot.waited_for[source] += (dispatch_[At(source, d)] + combine_[At(source, d)]) / others;
    }
  }
  // Only members have reported: absent ranks do not pull the median down.
  const auto slowest =
      std::max_element(snapshot.waited_for.begin(), snapshot.waited_for.end());
  std::vector<float> others;
  for (int r = 0; r < ranks_; ++r) {
    if (reported_[r] && r != slowest - snapshot.waited_for.begin()) {
      others.push_back(snapshot.waited_for[r]);
    }
  }
  if (!others.empty() && *slowest >= kStragglerFactor * Median(others) &&
      *slowest >= kStragglerShareOfStep * step && *slowest > 0) {
    snapshot.straggler = RankId(static_cast<int32_t>(slowest - snapshot.waited_for.begin()));
  }
  return snapshot;
}

}  // namespace shoal
