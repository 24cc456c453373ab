// SPDX-License-Identifier: Apache-2.0
#include "comm/peer_board.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "engine/parallel/blamed_peers.h"

namespace shoal {

absl::Status PeerBoard::status() const {
  if (cancelled()) return absl::AbortedError("cancelled");
  absl::MutexLock lock(&mutex_);
  absl::Status first;
  std::vector<RankId> failed;
  for (size_t peer = 0; peer < failures_.size(); ++peer) {
    if (failures_[peer].ok()) continue;
    first.Update(failures_[peer]);
    failed.push_back(RankId(static_cast<int32_t>(peer)));
  }
  return first.ok() ? first : BlamePeers(first, failed);
}

void PeerBoard::Cancel() {
  absl::MutexLock lock(&mutex_);
  cancelled_.store(true, std::memory_order_release);
  Update();
}

void PeerBoard::ClearCancel() {
  absl::MutexLock lock(&mutex_);
  cancelled_.store(false, std::memory_order_release);
  Update();
}

void PeerBoard::Fail(RankId peer, const absl::Status& why) {
  absl::MutexLock lock(&mutex_);
  absl::Status& failure = failures_[peer.value()];
  if (!failure.ok()) return;
  failure =
      BlamePeers(Reworded(why, absl::StrCat("rank ", peer.value(), " ", why.message())), {peer});
  Update();
}

void PeerBoard::Revive(RankId peer) {
  absl::MutexLock lock(&mutex_);
  failures_[peer.value()] = absl::OkStatus();
  Update();
}

bool PeerBoard::failed(RankId peer) const {
  absl::MutexLock lock(&mutex_);
  return !failures_[peer.value()].ok();
}

void PeerBoard::Update() {
  const bool failed = std::any_of(failures_.begin(), failures_.end(),
                                  [](const absl::Status& s) { return !s.ok(); });
  stopped_.store(failed || cancelled_.load(std::memory_order_relaxed), std::memory_order_release);
}

}  // namespace shoal
