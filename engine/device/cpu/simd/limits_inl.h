// SPDX-License-Identifier: Apache-2.0
// Loops that do nothing but what the machine is best at: bf16 products from registers, and reading
// memory. Their rates are the limits that benchmarks compare with.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/device/cpu/simd/isa.h"
#include "engine/device/cpu/simd/unroll.h"

namespace shoal::cpu {

template <class V>
struct Limits {
  using F = typename V::F;
  using U = typename V::U;

  // As many independent chains as the product tile has.
  static int64_t PeakBF16(int64_t rounds) {
    constexpr int kChains = V::kTileRows * V::kTileVecs;
    // Zeros that the optimiser knows nothing about: else it would make one chain of all, or none.
    float zeros[kChains * kLanes] = {};
    __asm__ volatile("" : "+m"(zeros));
    F acc[kChains];
    SHOAL_UNROLL
    for (int i = 0; i < kChains; ++i) acc[i] = V::Load(zeros + i * kLanes);
    const U a = V::SetU(0x3f803f80u), b = V::LoadU(zeros);
    for (int64_t round = 0; round < rounds; ++round) {
      SHOAL_UNROLL
      for (int i = 0; i < kChains; ++i) acc[i] = V::Dot(acc[i], a, b);
    }
    F sum = acc[0];
    SHOAL_UNROLL  // a loop that indexed the sums would keep them in memory
        for (int i = 1; i < kChains; ++i) sum = V::Add(sum, acc[i]);
    float lanes[kLanes];
    V::Store(lanes, sum);
    return rounds * kChains * 2 * kLanes + static_cast<int64_t>(lanes[0]);
  }

  template <int Streams>
  static uint64_t ReadStreams(const std::byte* data, size_t bytes) {
    const size_t part = bytes / Streams;
    U acc[Streams];
    SHOAL_UNROLL
    for (int i = 0; i < Streams; ++i) acc[i] = V::SetU(0);
    for (size_t offset = 0; offset < part; offset += 64) {
      SHOAL_UNROLL
      for (int i = 0; i < Streams; ++i) acc[i] = V::Xor(acc[i], V::LoadU(data + i * part + offset));
    }
    SHOAL_UNROLL
    for (int i = 1; i < Streams; ++i) acc[0] = V::Xor(acc[0], acc[i]);
    uint64_t words[8];
    V::StoreU(words, acc[0]);
    return words[0] ^ words[1] ^ words[2] ^ words[3] ^ words[4] ^ words[5] ^ words[6] ^ words[7];
  }

  static uint64_t Read(const std::byte* data, size_t bytes, int streams) {
    return streams == 8 ? ReadStreams<8>(data, bytes) : ReadStreams<1>(data, bytes);
  }
};

}  // namespace shoal::cpu
