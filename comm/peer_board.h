// SPDX-License-Identifier: Apache-2.0
// What one rank knows about its peers beyond their messages: which have failed and why, and whether
// the exchange was cancelled. Written by any thread, read by the engine's thread without a lock
// while all is well.
#pragma once

#include <atomic>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "engine/base/ids.h"

namespace shoal {

class PeerBoard {
 public:
  explicit PeerBoard(int world) : failures_(world) {}

  // True once somebody has failed or Cancel was called: a wait that is not yet satisfied should
  // give up.
  bool stopped() const { return stopped_.load(std::memory_order_acquire); }
  bool cancelled() const { return cancelled_.load(std::memory_order_acquire); }

  // OK; Aborted when cancelled; else what was reported about the first failed peer, which it names.
  // Blames all that have failed.
  absl::Status status() const;

  void Cancel();
  void ClearCancel();
  // `why` becomes "rank 3 <message of why>", with its code. The first report about a peer stays
  // until Revive.
  void Fail(RankId peer, const absl::Status& why);
  void Revive(RankId peer);
  bool failed(RankId peer) const;

 private:
  void Update() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  std::atomic<bool> stopped_{false};
  std::atomic<bool> cancelled_{false};
  mutable absl::Mutex mutex_;
  std::vector<absl::Status> failures_ ABSL_GUARDED_BY(mutex_);  // by rank; OK: not failed
};

}  // namespace shoal
