// SPDX-License-Identifier: Apache-2.0
// The last changes of the epoch and how long each phase of them took.
#pragma once

#include <cstddef>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "coordinator/core/cluster_snapshot.h"

namespace shoal {

class RecoveryLog {
 public:
  static constexpr size_t kKept = 8;

  // A new one; the oldest of too many is dropped. Epochs in which members tried in vain to connect, one
  // after the other, are one change.
  void Begin(Recovery recovery) {
    if (!recoveries_.empty() && recovery.cause == Recovery::Cause::kConnect) {
      Recovery& last = recoveries_.back();
      if (last.cause == Recovery::Cause::kConnect && last.fenced == absl::InfiniteFuture() &&
          last.who == recovery.who) {
        last.epoch = recovery.epoch;
        return;
      }
    }
    if (recoveries_.size() == kKept) recoveries_.erase(recoveries_.begin());
    recoveries_.push_back(std::move(recovery));
    resumed_ = false;
  }
  // All members of the present epoch are ready: every one that was under way is past this.
  void Fenced(absl::Time now) {
    for (Recovery& recovery : recoveries_) {
      if (recovery.fenced == absl::InfiniteFuture()) recovery.fenced = now;
    }
  }
  // A step of the present epoch was committed, or there is none to compute. Cheap after the first
  // time.
  void Resumed(absl::Time now) {
    if (resumed_) return;
    resumed_ = true;
    for (Recovery& recovery : recoveries_) {
      if (recovery.resumed == absl::InfiniteFuture()) recovery.resumed = now;
    }
  }

  const std::vector<Recovery>& recoveries() const { return recoveries_; }

 private:
  std::vector<Recovery> recoveries_;  // oldest first
  bool resumed_ = true;               // the latest one
};

}  // namespace shoal
