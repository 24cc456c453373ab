// SPDX-License-Identifier: Apache-2.0
// Counts what the token path must not do: heap allocations and mutex locks, on every thread of the
// process, while armed. Linking token_path_counter.cc into a test replaces malloc's family and the
// lock functions by counting ones.
#pragma once

#include <cstdint>

namespace shoal {

struct TokenPathCounts {
  int64_t allocations = 0;
  int64_t locks = 0;  // pthread mutexes, read-write locks, and absl::Mutex
};

void ArmTokenPathCounter();  // from zero
TokenPathCounts DisarmTokenPathCounter();

}  // namespace shoal
