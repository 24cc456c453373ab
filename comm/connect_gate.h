// SPDX-License-Identifier: Apache-2.0
// Which epochs are still worth connecting: those before the one announced last are not. Any thread
// may close the gate, and it never opens again, so it does not matter whether that happens before
// or during the Connect it is meant for.
#pragma once

#include <atomic>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/base/ids.h"

namespace shoal {

class ConnectGate {
 public:
  // Epochs before `next` are over.
  void Close(Epoch next) {
    int64_t open = first_open_.load(std::memory_order_relaxed);
    while (open < next.value() && !first_open_.compare_exchange_weak(open, next.value())) {
    }
  }

  // Errors: Aborted when `epoch` is over.
  absl::Status Check(Epoch epoch) const {
    const int64_t open = first_open_.load(std::memory_order_acquire);
    if (epoch.value() >= open) return absl::OkStatus();
    return absl::AbortedError(absl::StrCat("connecting epoch ", epoch.value(),
                                           ": abandoned, it ended before epoch ", open));
  }

 private:
  std::atomic<int64_t> first_open_{0};
};

}  // namespace shoal
