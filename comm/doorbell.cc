// SPDX-License-Identifier: Apache-2.0
#include "comm/doorbell.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
#include <ctime>

namespace shoal {

// Why no wake-up is lost: the sleeper stores `sleeping` and then lets the kernel compare `rings`;
// the ringer changes `rings` and then loads `sleeping`. In the single order of seq_cst operations
// one of the two sees the other.
void Doorbell::Ring() {
  rings.fetch_add(1, std::memory_order_seq_cst);
  if (sleeping.load(std::memory_order_seq_cst) == 0) return;
  // Not FUTEX_PRIVATE: the sleeper may live in another process.
  syscall(SYS_futex, &rings, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

void Doorbell::Sleep(uint32_t heard, absl::Duration at_most) {
  const timespec timeout = absl::ToTimespec(at_most);
  sleeping.store(1, std::memory_order_seq_cst);
  syscall(SYS_futex, &rings, FUTEX_WAIT, heard, &timeout, nullptr, 0);
  sleeping.store(0, std::memory_order_seq_cst);
}

}  // namespace shoal
