// SPDX-License-Identifier: Apache-2.0
// Products of rows with packed weights. Work is cut into (head, panel, chunk of rows) and handed
// out in any order: no two items touch one output, and an output's sum is wholly inside one.
#pragma once

#include <cstdint>

#include "engine/device/cpu/context.h"

namespace shoal::cpu {

// Rows as panel_dot reads them: bf16, `stride` elements apart, zero in the padding; with FP8
// activations, their values divided by scales.
struct InputRows {
  const uint16_t* x = nullptr;
  int64_t stride = 0;
  int64_t head_stride = 0;
  const float* scales = nullptr;
  int64_t scale_stride = 0;
};

// x [T, K] f32 or bf16 as input of `w`: in place if it can be, else in `rows` and `row_scales`.
InputRows PrepareRows(Context& context, TensorView x, const PackedWeight& w, Scratch& rows,
                      Scratch& row_scales);

// Sums of one panel for rows [begin, begin + count), count <= kRowChunk, into sums [count,
// kPanelRows].
void MultiplyPanel(Context& context, int thread, const InputRows& input, int64_t begin,
                   int64_t count, const PackedWeight& w, int64_t head, int64_t panel, float* sums);

// y[t, h, n], `row_stride` and `head_stride` elements apart, f32 or bf16.
struct OutputRows {
  std::byte* y = nullptr;
  DType dtype = DType::kF32;
  int64_t row_stride = 0;
  int64_t head_stride = 0;

  // Stores `count` sums of row t from column n of head h on.
  void Store(const Isa& isa, int64_t t, int64_t h, int64_t n, const float* sums,
             int64_t count) const;
};

// All heads and outputs of `w` for `rows` rows.
void Multiply(Context& context, const InputRows& input, int64_t rows, const PackedWeight& w,
              const OutputRows& output);

// Chunks that `rows` are cut into, and the first row of chunk i.
inline int64_t RowChunks(int64_t rows) { return (rows + kRowChunk - 1) / kRowChunk; }
inline int64_t ChunkBegin(int64_t rows, int64_t chunk) { return chunk * rows / RowChunks(rows); }

// Time of one panel times one chunk, as bytes that memory would move in it.
inline int64_t PanelCost(const PackedWeight& w, int64_t rows) {
  return w.padded_cols() * kPanelRows * 2 * std::max<int64_t>(1, std::min(rows, kRowChunk) / 16);
}

}  // namespace shoal::cpu
