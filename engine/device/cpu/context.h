// SPDX-License-Identifier: Apache-2.0
// What all operations of the CPU backend share: the instruction set, the threads, and scratch that
// is sized once.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "engine/device/cpu/memory.h"
#include "engine/device/cpu/packed_weight.h"
#include "engine/device/cpu/simd/isa.h"
#include "engine/device/cpu/thread_pool.h"
#include "engine/tensor/tensor.h"

namespace shoal::cpu {

// Rows that one work item of a product takes at once: their sums (64 KiB per panel) stay in L2.
inline constexpr int64_t kRowChunk = 256;

// Scratch of one thread.
struct ThreadScratch {
  Scratch decode;     // panel_dot's
  Scratch sums;       // 2 x [kRowChunk, kPanelRows] f32
  Scratch row;        // one row, f32
  Scratch attention;  // attention.cc
};

struct Context {
  Context(const Isa& isa, int threads) : isa(isa), pool(threads), threads(pool.threads()) {}

  // A loop over `items` of about `cost` bytes of memory traffic (or as much time) each, cut so that
  // a claim is worth its atomic operation and small loops wake nobody.
  template <typename Body>
  void For(int64_t items, int64_t cost, const Body& body) {
    constexpr int64_t kClaimBytes = 32 << 10;
    pool.For(items, std::max<int64_t>(1, kClaimBytes / std::max<int64_t>(1, cost)), body);
  }

  const Isa& isa;
  ThreadPool pool;
  std::vector<ThreadScratch> threads;
  Scratch rows;          // inputs of a product, rounded
  Scratch row_scales;    // of FP8 activations
  Scratch hidden;        // [rows, F] between the halves of an FFN
  Scratch hidden_float;  // the same in f32, before FP8 quantisation
  Scratch hidden_scales;
  Scratch partials;  // attention.cc: segments computed apart
};

}  // namespace shoal::cpu
