// SPDX-License-Identifier: Apache-2.0
#include "coordinator/core/failed_steps.h"

#include <algorithm>
#include <map>
#include <set>

namespace shoal {

void FailedSteps::Begin(Epoch epoch, absl::Time now) {
  if (count_++ == 0) since_ = now;
  std::map<RankId, std::set<RankId>> waits;
  for (const Accusation& wait : last_) waits[wait.by].insert(wait.of);
  for (const Accusation& wait : last_) {
    const auto peer = waits.find(wait.of);
    if (peer == waits.end() || peer->second.contains(wait.by)) before_.push_back(wait);
  }
  last_.clear();
  last_epoch_ = epoch;
}

void FailedSteps::Add(Epoch epoch, RankId by, absl::Span<const RankId> waited_for) {
  if (count_ == 0 || epoch != last_epoch_) return;
  const bool has_spoken = std::any_of(last_.begin(), last_.end(),
                                      [&](const Accusation& wait) { return wait.by == by; });
  if (has_spoken) return;
  for (const RankId of : waited_for) last_.push_back({by, of});
}

void FailedSteps::Clear() {
  count_ = 0;
  last_.clear();
  before_.clear();
}

}  // namespace shoal
