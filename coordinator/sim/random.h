// SPDX-License-Identifier: Apache-2.0
// Numbers that depend on a seed and a count, and on nothing else: the n-th draw of a stream is a hash of
// (seed, stream, n). Streams are independent, so that what one subject draws does not move another.
#pragma once

#include <cstdint>

#include "absl/time/time.h"

namespace shoal::sim {

// A bijection of 64 bits (splitmix64's finalizer, https://prng.di.unimi.it/splitmix64.c).
inline uint64_t Scramble(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}
inline uint64_t MixBits(uint64_t a, uint64_t b) {
  return Scramble(a * 0x9e3779b97f4a7c15u + b + 0x7f4a7c15u);
}

class Random {
 public:
  Random(uint64_t seed, uint64_t stream) : key_(MixBits(Scramble(seed + 1), stream)) {}

  uint64_t Next() { return Scramble(key_ + ++count_ * 0x9e3779b97f4a7c15u); }
  uint64_t Below(uint64_t bound) { return bound == 0 ? 0 : Next() % bound; }
  // Both ends included.
  int64_t Between(int64_t least, int64_t most) {
    return least + static_cast<int64_t>(Below(static_cast<uint64_t>(most - least) + 1));
  }
  bool Chance(int percent) { return Below(100) < static_cast<uint64_t>(percent); }
  absl::Duration Between(absl::Duration least, absl::Duration most) {
    return absl::Nanoseconds(
        Between(absl::ToInt64Nanoseconds(least), absl::ToInt64Nanoseconds(most)));
  }

 private:
  uint64_t key_;
  uint64_t count_ = 0;
};

}  // namespace shoal::sim
