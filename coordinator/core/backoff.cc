// SPDX-License-Identifier: Apache-2.0
#include "coordinator/core/backoff.h"

#include <algorithm>
#include <set>

namespace shoal {
namespace {

constexpr int32_t kFirstDeathsAtNoCost = 2;
constexpr absl::Duration kFirstBackoff = absl::Milliseconds(250);
constexpr absl::Duration kLongestBackoff = absl::Seconds(60);

absl::Duration Backoff(int32_t deaths) {
  absl::Duration backoff = kFirstBackoff;
  for (int32_t death = kFirstDeathsAtNoCost + 1; death < deaths && backoff < kLongestBackoff;
       ++death) {
    backoff *= 2;
  }
  return std::min(backoff, kLongestBackoff);
}

bool GoesOn(const Sequence& choice) {
  return choice.state != Sequence::State::kBackingOff && choice.state != Sequence::State::kHeld &&
         choice.state != Sequence::State::kEnded;
}

}  // namespace

void CountDeaths(ServingState& state, const std::vector<RankId>& lost, absl::Time now) {
  if (lost.empty()) return;
  std::vector<Sequence*> suspects;
  state.waiting.ForEach([&](Sequence& sequence) {
    if (sequence.interrupted != state.epoch) return;
    if (std::find(lost.begin(), lost.end(), sequence.last_rank) == lost.end()) return;
    if (++sequence.deaths > kFirstDeathsAtNoCost) suspects.push_back(&sequence);
  });
  for (size_t i = 0; i < suspects.size(); ++i) {
    Sequence& sequence = *suspects[i];
    state.waiting.Remove(sequence);
    sequence.state = Sequence::State::kBackingOff;
    // Not all at once: apart from the one that is to blame, the others get on.
    const double share = 1 - 0.5 * static_cast<double>(i) / static_cast<double>(suspects.size());
    sequence.backoff_ends = now + share * Backoff(sequence.deaths);
    state.backing_off.push_back(&sequence);
  }
}

void EndBackoffs(ServingState& state, absl::Time now) {
  std::erase_if(state.backing_off, [&](Sequence* sequence) {
    if (sequence->backoff_ends > now) return false;
    sequence->state = Sequence::State::kWaiting;
    state.waiting.Push(*sequence);
    return true;
  });
}

int64_t RequestsBackingOff(const ServingState& state) {
  std::set<RequestId> counted;
  for (const Sequence* sequence : state.backing_off) {
    const LiveRequest& request = *sequence->request;
    if (std::any_of(request.choices.begin(), request.choices.end(), GoesOn)) continue;
    counted.insert(request.request.id);
  }
  return static_cast<int64_t>(counted.size());
}

}  // namespace shoal
