// SPDX-License-Identifier: Apache-2.0
#include "coordinator/core/waiting_queue.h"

#include <tuple>

#include "engine/base/check.h"

namespace shoal {

void WaitingQueue::Push(Sequence& sequence) {
  Level& level = levels_[sequence.seniority.priority];
  Line& line = sequence.resumed ? level.resumed : level.by_user[sequence.request->user->serial];
  SHOAL_CHECK(line.try_emplace(sequence.seniority, &sequence).second);
  ++size_;
}

void WaitingQueue::Remove(Sequence& sequence) {
  auto level = levels_.find(sequence.seniority.priority);
  SHOAL_CHECK(level != levels_.end());
  if (sequence.resumed) {
    SHOAL_CHECK(level->second.resumed.erase(sequence.seniority) == 1);
  } else {
    auto line = level->second.by_user.find(sequence.request->user->serial);
    SHOAL_CHECK(line != level->second.by_user.end() && line->second.erase(sequence.seniority) == 1);
    if (line->second.empty()) level->second.by_user.erase(line);
  }
  if (level->second.resumed.empty() && level->second.by_user.empty()) levels_.erase(level);
  --size_;
}

Sequence* WaitingQueue::Front() const {
  if (levels_.empty()) return nullptr;
  const Level& level = levels_.begin()->second;
  if (!level.resumed.empty()) return level.resumed.begin()->second;
  Sequence* best = nullptr;
  for (const auto& [user, line] : level.by_user) {
    Sequence* first = line.begin()->second;
    if (best == nullptr || std::tie(first->request->user->served, first->seniority) <
                               std::tie(best->request->user->served, best->seniority)) {
      best = first;
    }
  }
  return best;
}

}  // namespace shoal
