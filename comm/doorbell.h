// SPDX-License-Identifier: Apache-2.0
// A futex doorbell in memory that two threads, or two processes, share: how a writer tells the one
// reader that something has changed. It carries no state of its own: whoever wakes looks again at
// what it was waiting for.
#pragma once

#include <atomic>
#include <cstdint>

#include "absl/time/time.h"

namespace shoal {

struct Doorbell {
  std::atomic<uint32_t> rings{0};
  std::atomic<uint32_t> sleeping{0};

  // Read before looking at the awaited condition, and given to Sleep when it did not hold: a ring
  // in between makes Sleep return at once, so none is lost.
  uint32_t Listen() const { return rings.load(std::memory_order_seq_cst); }

  // After the change has been made visible. A system call only when somebody sleeps.
  void Ring();

  // Returns after a ring later than `heard`, after `at_most`, or for no reason.
  void Sleep(uint32_t heard, absl::Duration at_most);
};
static_assert(std::atomic<uint32_t>::is_always_lock_free &&
              std::atomic<uint64_t>::is_always_lock_free);

// One turn of a bounded spin.
inline void CpuRelax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace shoal
