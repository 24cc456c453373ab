// SPDX-License-Identifier: Apache-2.0
// The inner loops of the CPU backend as one table of functions, so that the instruction set is
// chosen at run time by one pointer. Everything above this table is ordinary portable C++;
// everything below is written once against 16-lane vectors (*_inl.h) and compiled once per
// instruction set (avx512_bf16.cc, avx2.cc, portable.cc).
//
// All functions are pure: no allocation, no locks, no threads. Each output element has one order of
// operations, which depends on the lengths along its own reduction only. Unless said otherwise
// pointers need no alignment.
#pragma once

#include <cstddef>
#include <cstdint>

namespace shoal::cpu {

// f32 lanes of one vector, in every instruction set; a narrower machine uses several registers for
// it.
inline constexpr int kLanes = 16;
// A panel: the outputs whose weights lie interleaved, so that one pass over K makes all of them.
inline constexpr int kPanelVecs = 4;
inline constexpr int kPanelRows = kPanelVecs * kLanes;
// Columns of K that all rows of a work item pass over before the next: 64 outputs x 256 bf16 = 32
// KiB stay in L1.
inline constexpr int64_t kBlockCols = 256;
// Columns of K that share a scale may be at most this many.
inline constexpr int64_t kMaxScaleCols = 256;
// Scratch of panel_dot: one block of weights, decoded.
inline constexpr size_t kDecodeBytes = kPanelRows * kBlockCols * sizeof(float);

// Attention: positions of a tile, heads of a column, and the unit to which row widths are padded.
inline constexpr int kTilePositions = 64;
inline constexpr int kColumnHeads = kLanes;
inline constexpr int64_t kValueUnit = 2 * kLanes;

enum class WeightFormat : uint8_t {
  kBF16,  // [K/2][vecs][16 rows][2] u16
  kE4M3,  // [K/4][vecs] groups of 64 u8: what decoding turns into the two kBF16 vectors of columns
          // 0-1 and 2-3
  kF32,   // [K][vecs][16 rows] f32
  kF16,   // the same in f16
};

// c[t, n] = sum_k x[t, k] * w[n, k] for one panel: k ascending, within a bf16 pair the odd k first.
// With scales each block of `block_cols` columns is summed by itself and then added times (x_scale
// * scale).
struct PanelDot {
  const uint16_t* x = nullptr;  // [rows, x_stride] bf16, finite up to `cols`
  int64_t x_stride = 0;         // elements
  int64_t rows = 0;
  const float* x_scales = nullptr;  // [rows, x_scale_stride]: one per block; null: 1
  int64_t x_scale_stride = 0;
  WeightFormat format = WeightFormat::kBF16;
  const std::byte* weights = nullptr;
  int vecs = kPanelVecs;          // of 16 outputs, 1..4
  int64_t cols = 0;               // K, padded with zero weights to a multiple of 4
  const float* scales = nullptr;  // [blocks][vecs]; null: unscaled
  int64_t block_cols = 0;         // with scales: <= kMaxScaleCols, a multiple of 4
  float* c = nullptr;             // [rows, kPanelRows], columns vecs*16.. untouched
  std::byte* decode = nullptr;    // kDecodeBytes, 64-byte aligned
};

// Running softmax of the 16 heads of a column over some positions.
struct ColumnState {
  float* max = nullptr;  // [16] largest raw score
  float* sum = nullptr;  // [16] of weights, relative to max
  float* out =
      nullptr;  // [16, value_width] weighted rows; order of columns is the instruction set's own
};

struct Isa {
  const char* name;     // "avx512_bf16"
  bool (*supported)();  // by this machine and its operating system

  void (*panel_dot)(const PanelDot& p);

  // --- Rows (rows_inl.h) ---
  void (*to_bf16)(const float* x, int64_t n, uint16_t* y);  // to nearest even, NaN stays NaN
  void (*from_bf16)(const uint16_t* x, int64_t n, float* y);
  void (*from_f16)(const uint16_t* x, int64_t n, float* y);
  void (*add)(float* x, const float* y, int64_t n);  // x += y
  void (*add_scaled_f32)(float* y, float w, const float* x,
                         int64_t n);  // y += w * x, two roundings
  void (*add_scaled_bf16)(float* y, float w, const uint16_t* x, int64_t n);
  void (*rms_norm)(const float* x, const float* w, int64_t n, float eps, float* y);
  void (*silu_mul)(float* gate, const float* up, int64_t n);  // gate = silu(gate) * up
  // E4M3 by blocks of `block` columns: y = e4m3(x / s) as bf16, s = max(|x|, 1e-4) / 448 (ue8m0: up
  // to 2^n) to scales.
  void (*quantise)(const float* x, int64_t n, int64_t block, bool ue8m0, uint16_t* y,
                   float* scales);

  // --- Router (router_inl.h) ---
  // logits[t, e] = x[t] . w[e]; t < rows, e < experts; w f32 or bf16 as stored, row-major.
  void (*router_f32)(const float* x, int64_t rows, const float* w, int64_t experts, int64_t n,
                     float* logits, int64_t logits_stride);
  void (*router_bf16)(const float* x, int64_t rows, const uint16_t* w, int64_t experts, int64_t n,
                      float* logits, int64_t logits_stride);
  void (*exp_minus)(const float* x, float shift, int64_t n, float* y);  // y = exp(x - shift)
  void (*sigmoid)(const float* x, int64_t n, float* y);

  // --- Attention (attend_inl.h): a column is 16 heads of one row, a tile up to 64 consecutive
  // cache rows --- Heads [0, heads) of one row, [heads, width] bf16, to pairs [width/2][16 heads];
  // absent heads are zero.
  void (*pack_column)(const uint16_t* q, int64_t width, int heads, uint32_t* packed);
  // Raw scores [64][16] of one or two columns (q1 may be null); reads whole groups of 16 (two
  // columns: 8) cache rows. `next`: what will be wanted after this tile, or any address.
  void (*tile_scores)(const uint32_t* q0, const uint32_t* q1, const uint16_t* cache, int64_t stride,
                      int64_t width, int positions, const uint16_t* next, float* scores0,
                      float* scores1);
  // Folds `positions` scored rows into the state: weights to [32][2][16] bf16 pairs (rounded, then
  // what that left), then out = out * old + weights * rows. `scale` includes log2(e). `first`: the
  // state is empty.
  void (*tile_values)(const float* scores, const uint16_t* cache, int64_t stride,
                      int64_t value_width, int positions, float scale, bool first,
                      uint32_t* weights, const ColumnState& state);
  // Folds `part` into `whole`, heads [0, heads); `first`: whole is empty.
  void (*merge_columns)(const ColumnState& whole, const ColumnState& part, int64_t value_width,
                        float scale, bool first);
  // out[h, 0..n) = bf16(state.out[h] / state.sum[h]) for h < heads.
  void (*finish_column)(const ColumnState& state, int64_t value_width, int heads, int64_t n,
                        uint16_t* out, int64_t out_stride);

  // --- Machine limits: independent products from registers; returns the multiply-adds done ---
  int64_t (*peak_bf16)(int64_t rounds);
  // Reads `bytes` (a multiple of 512) in `streams` (1 or 8) equal streams; returns a value that
  // depends on all.
  uint64_t (*read)(const std::byte* data, size_t bytes, int streams);
};

// The instruction sets of this build that this machine runs, best first; the last one is always
// "portable".
struct IsaList {
  const Isa* isas[3];
  int count = 0;
};
IsaList SupportedIsas();

}  // namespace shoal::cpu
