// SPDX-License-Identifier: Apache-2.0
// One panel of weights against any number of rows. Whatever that number and the blocking, element (t, n) is one chain of
// multiply-adds along k (one per scale block, if there are scales), so a row has the same bits alone and in any batch.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/device/cpu/simd/e4m3_table.h"
#include "engine/device/cpu/simd/isa.h"
#include "engine/device/cpu/simd/unroll.h"

namespace shoal::cpu {

template <class V>
struct PanelDotImpl {
  using F = typename V::F;
  using U = typename V::U;

  // One register tile over one block of columns.
  struct TileArgs {
    const uint16_t* x;
    int64_t x_stride;
    const std::byte* w;   // of this tile's first vector
    int64_t w_step;       // bytes from one column (f32) or pair of columns (bf16) to the next
    int64_t cols;
    float* c;
    bool start;           // c holds nothing yet
    const float* scales;  // [vectors of the tile] or null
    const float* x_scales;
    int64_t x_scale_stride;
    const std::byte* next;  // bytes wanted soon: `next_lines` cache lines are fetched per 8 columns
    int next_lines;
  };

  template <int Rows, int Vecs, bool kF32>
  static void Tile(const TileArgs& p) {
    F acc[Rows][Vecs];
    const bool chain = !p.start && p.scales == nullptr;
    SHOAL_UNROLL
    for (int r = 0; r < Rows; ++r) {
      SHOAL_UNROLL
      for (int v = 0; v < Vecs; ++v) acc[r][v] = chain ? V::Load(p.c + r * kPanelRows + v * kLanes) : V::Zero();
    }
    const uint16_t* x = p.x;
    const uint16_t* x3 = p.x + 3 * p.x_stride;
    const int64_t x_stride = p.x_stride;
    const std::byte* w = p.w;
    const std::byte* next = p.next;
    for (int64_t k = 0; k < p.cols; k += 8) {
      for (int i = 0; i < p.next_lines; ++i) {
        __builtin_prefetch(next, 0, 2);
        next += 64;
      }
      const int64_t pairs = p.cols - k < 8 ? (p.cols - k) / 2 : 4;
      for (int64_t j = 0; j < pairs; ++j) {
        U even[Vecs], odd[Vecs];
        SHOAL_UNROLL
        for (int v = 0; v < Vecs; ++v) {
          even[v] = V::LoadU(w + v * 64);
          if (kF32) odd[v] = V::LoadU(w + p.w_step + v * 64);
        }
        SHOAL_UNROLL
        for (int r = 0; r < Rows; ++r) {
          uint32_t pair;
          __builtin_memcpy(&pair, r < 3 ? x + r * x_stride : x3 + (r - 3) * x_stride, 4);
          if (kF32) {
            const F x_even = V::AsF(V::SetU(pair << 16));
            const F x_odd = V::AsF(V::SetU(pair & 0xffff0000u));
            SHOAL_UNROLL
            for (int v = 0; v < Vecs; ++v) {
              acc[r][v] = V::MulAdd(V::AsF(even[v]), x_even, acc[r][v]);
              acc[r][v] = V::MulAdd(V::AsF(odd[v]), x_odd, acc[r][v]);
            }
          } else {
            const U x_pair = V::SetU(pair);
            SHOAL_UNROLL
            for (int v = 0; v < Vecs; ++v) acc[r][v] = V::Dot(acc[r][v], even[v], x_pair);
          }
        }
        x += 2;
        x3 += 2;
        w += kF32 ? 2 * p.w_step : p.w_step;
      }
    }
    SHOAL_UNROLL
    for (int r = 0; r < Rows; ++r) {
      SHOAL_UNROLL
      for (int v = 0; v < Vecs; ++v) {
        float* c = p.c + r * kPanelRows + v * kLanes;
        F sum = acc[r][v];
        if (p.scales != nullptr) {
          const float scale = p.x_scales != nullptr ? p.x_scales[r * p.x_scale_stride] * p.scales[v] : p.scales[v];
          sum = V::Mul(sum, V::Set(scale));
          if (!p.start) sum = V::Add(V::Load(c), sum);
        }
        V::Store(c, sum);
      }
    }
  }

  template <int Vecs, bool kF32>
  static void TileRows(int64_t rows, const TileArgs& p) {
    switch (rows) {
      case 1:
        return Tile<1, Vecs, kF32>(p);
      case 2:
        return Tile<2, Vecs, kF32>(p);
      case 3:
        return Tile<(V::kTileRows >= 3 ? 3 : 1), Vecs, kF32>(p);
      case 4:
        return Tile<(V::kTileRows >= 4 ? 4 : 1), Vecs, kF32>(p);
      case 5:
        return Tile<(V::kTileRows >= 5 ? 5 : 1), Vecs, kF32>(p);
      default:
        return Tile<(V::kTileRows >= 6 ? 6 : 1), Vecs, kF32>(p);
    }
  }
  static_assert(V::kTileRows >= 2 && V::kTileRows <= 6);

  static void TileVecs(bool f32, int vecs, int64_t rows, const TileArgs& p) {
    static_assert(V::kTileVecs == 1 || V::kTileVecs == 4);
    if constexpr (V::kTileVecs == 1) {
      f32 ? TileRows<1, true>(rows, p) : TileRows<1, false>(rows, p);
    } else {
      switch (vecs) {
        case 1:
          return f32 ? TileRows<1, true>(rows, p) : TileRows<1, false>(rows, p);
        case 2:
          return f32 ? TileRows<2, true>(rows, p) : TileRows<2, false>(rows, p);
        case 3:
          return f32 ? TileRows<3, true>(rows, p) : TileRows<3, false>(rows, p);
        default:
          return f32 ? TileRows<4, true>(rows, p) : TileRows<4, false>(rows, p);
      }
    }
  }

  // A block of compressed weights to the layout of kBF16 or kF32.
  static void Decode(WeightFormat format, const std::byte* w, int64_t cols, int vecs, std::byte* out) {
    if (format == WeightFormat::kE4M3) {
      for (int64_t k = 0; k < cols; k += 4) {
        for (int v = 0; v < vecs; ++v) {
          U first, second;
          V::DecodeE4M3(w + v * 64, kE4M3Table.bytes, first, second);
          V::StoreU(out + v * 64, first);
          V::StoreU(out + (vecs + v) * 64, second);
        }
        w += vecs * 64;
        out += vecs * 128;
      }
    } else {
      for (int64_t i = 0; i < cols * vecs; ++i) {
        V::Store(reinterpret_cast<float*>(out + i * 64),
                 V::LoadF16(reinterpret_cast<const uint16_t*>(w + i * 32)));
      }
    }
  }

  static void Run(const PanelDot& p) {
    const bool f32 = p.format == WeightFormat::kF32 || p.format == WeightFormat::kF16;
    const bool decode = p.format == WeightFormat::kE4M3 || p.format == WeightFormat::kF16;
    const int64_t stored_col = p.vecs * (p.format == WeightFormat::kE4M3  ? 16
                                         : p.format == WeightFormat::kF32 ? 64
                                                                          : 32);  // bytes of one column
    const int64_t tile_rows = V::kTileRows;
    const int64_t tiles = (p.rows + tile_rows - 1) / tile_rows;
    const bool stream = tiles == 1 && !decode && p.scales == nullptr;  // nothing to keep in L1: one pass
    const int64_t block_cols = p.scales != nullptr ? p.block_cols : stream ? p.cols : kBlockCols;

    int64_t block = 0;
    for (int64_t k = 0; k < p.cols; k += block_cols, ++block) {
      const int64_t cols = p.cols - k < block_cols ? p.cols - k : block_cols;
      const std::byte* stored = p.weights + k * stored_col;
      const std::byte* w = stored;
      if (decode) {
        Decode(p.format, stored, cols, p.vecs, p.decode);
        w = p.decode;
      }
      TileArgs tile;
      tile.x_stride = p.x_stride;
      tile.w_step = p.vecs * 64;
      tile.cols = cols;
      tile.start = k == 0;
      tile.x_scale_stride = p.x_scale_stride;
      // The next block arrives while this one is multiplied, shared evenly among the tiles.
      const int64_t steps = (cols + 7) / 8;
      const int64_t lines = cols * stored_col / 64;
      const int64_t passes = tiles * (p.vecs / (V::kTileVecs < p.vecs ? V::kTileVecs : p.vecs));
      tile.next_lines = static_cast<int>((lines + passes * steps - 1) / (passes * steps));
      tile.next = stored + (stream ? 4096 : cols * stored_col);

      int64_t row = 0;
      for (int64_t i = 0; i < tiles; ++i) {
        const int64_t rows = p.rows / tiles + (i < p.rows % tiles ? 1 : 0);
        tile.x = p.x + row * p.x_stride + k;
        tile.x_scales = p.x_scales != nullptr ? p.x_scales + row * p.x_scale_stride + block : nullptr;
        for (int v = 0; v < p.vecs; v += V::kTileVecs) {
          tile.w = w + v * 64;
          tile.c = p.c + row * kPanelRows + v * kLanes;
          tile.scales = p.scales != nullptr ? p.scales + block * p.vecs + v : nullptr;
          TileVecs(f32, p.vecs, rows, tile);
          tile.next += tile.next_lines * steps * 64;
        }
        row += rows;
      }
    }
  }
};

}  // namespace shoal::cpu
