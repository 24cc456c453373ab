// SPDX-License-Identifier: Apache-2.0
// One panel of weights against any number of rows. Whatever that number and the blocking, element
// (t, n) is one chain of multiply-adds along k (one per scale block, if there are scales), so a row
// has the same bits alone and in any batch.
#pragma once

#include <cstddef>
#include <cstdint>

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
    const std::byte* w;  // of this tile's first vector
    int64_t
        w_step;  // bytes from one column (f32), pair (bf16) or group of four (codes) to the next
    int64_t cols;
    float* c;
    bool start;           // c holds nothing yet
    const float* scales;  // [vectors of the tile] or null
    const float* x_scales;
    int64_t x_scale_stride;
    const std::byte* next;  // bytes wanted soon: `next_lines` cache lines are fetched per 8 columns
    int next_lines;
  };

  // What a tile reads: bf16 pairs, f32, or E4M3 codes that it decodes in registers (when it is the
  // only tile; else a block is decoded once for all of them).
  enum class Form { kPairs, kFloats, kCodes };

  // acc += two columns of weights times those of each row, which follow x.
  template <int Rows, int Vecs>
  static SHOAL_INLINE void DotPairs(const uint16_t* x, int64_t x_stride, const U (&w)[Vecs],
                                    F (&acc)[Rows][Vecs]) {
    const uint16_t* x3 = x + 3 * x_stride;
    SHOAL_UNROLL
    for (int r = 0; r < Rows; ++r) {
      uint32_t pair;
      __builtin_memcpy(&pair, r < 3 ? x + r * x_stride : x3 + (r - 3) * x_stride, 4);
      const U x_pair = V::SetU(pair);
      SHOAL_UNROLL
      for (int v = 0; v < Vecs; ++v) acc[r][v] = V::Dot(acc[r][v], w[v], x_pair);
    }
  }
  template <int Rows, int Vecs>
  static SHOAL_INLINE void DotFloats(const uint16_t* x, int64_t x_stride, const U (&even)[Vecs],
                                     const U (&odd)[Vecs], F (&acc)[Rows][Vecs]) {
    const uint16_t* x3 = x + 3 * x_stride;
    SHOAL_UNROLL
    for (int r = 0; r < Rows; ++r) {
      uint32_t pair;
      __builtin_memcpy(&pair, r < 3 ? x + r * x_stride : x3 + (r - 3) * x_stride, 4);
      const F x_even = V::AsF(V::SetU(pair << 16));
      const F x_odd = V::AsF(V::SetU(pair & 0xffff0000u));
      SHOAL_UNROLL
      for (int v = 0; v < Vecs; ++v) {
        acc[r][v] = V::MulAdd(V::AsF(even[v]), x_even, acc[r][v]);
        acc[r][v] = V::MulAdd(V::AsF(odd[v]), x_odd, acc[r][v]);
      }
    }
  }

  template <int Rows, int Vecs, Form kForm>
  static void Tile(const TileArgs& p) {
    F acc[Rows][Vecs];
    const bool chain = !p.start && p.scales == nullptr;
    SHOAL_UNROLL
    for (int r = 0; r < Rows; ++r) {
      SHOAL_UNROLL
      for (int v = 0; v < Vecs; ++v)
        acc[r][v] = chain ? V::Load(p.c + r * kPanelRows + v * kLanes) : V::Zero();
    }
    const uint16_t* x = p.x;
    const std::byte* w = p.w;
    const std::byte* next = p.next;
    constexpr int kStep = kForm == Form::kCodes ? 4 : 2;  // columns
    for (int64_t k = 0; k < p.cols; k += 8) {
      for (int i = 0; i < p.next_lines; ++i) {
        __builtin_prefetch(next, 0, 3);
        next += 64;
      }
      const int64_t steps = p.cols - k < 8 ? (p.cols - k) / kStep : 8 / kStep;
      for (int64_t j = 0; j < steps; ++j) {
        U first[Vecs], second[Vecs];
        SHOAL_UNROLL
        for (int v = 0; v < Vecs; ++v) {
          if constexpr (kForm == Form::kCodes) {
            V::DecodeE4M3(w + v * 64, first[v], second[v]);
          } else {
            first[v] = V::LoadU(w + v * 64);
            if constexpr (kForm == Form::kFloats) second[v] = V::LoadU(w + p.w_step + v * 64);
          }
        }
        if constexpr (kForm == Form::kFloats) {
          DotFloats<Rows, Vecs>(x, p.x_stride, first, second, acc);
        } else {
          DotPairs<Rows, Vecs>(x, p.x_stride, first, acc);
          if constexpr (kForm == Form::kCodes) DotPairs<Rows, Vecs>(x + 2, p.x_stride, second, acc);
        }
        x += kStep;
        w += kForm == Form::kFloats ? 2 * p.w_step : p.w_step;
      }
    }
    SHOAL_UNROLL
    for (int r = 0; r < Rows; ++r) {
      SHOAL_UNROLL
      for (int v = 0; v < Vecs; ++v) {
        float* c = p.c + r * kPanelRows + v * kLanes;
        F sum = acc[r][v];
        if (p.scales != nullptr) {
          const float scale =
              p.x_scales != nullptr ? p.x_scales[r * p.x_scale_stride] * p.scales[v] : p.scales[v];
          sum = V::Mul(sum, V::Set(scale));
          if (!p.start) sum = V::Add(V::Load(c), sum);
        }
        V::Store(c, sum);
      }
    }
  }

  template <int Vecs, Form kForm>
  static void TileRows(int64_t rows, const TileArgs& p) {
    constexpr int kMost = V::kTileRows;
    switch (rows) {
      case 1:
        return Tile<1, Vecs, kForm>(p);
      case 2:
        return Tile<2, Vecs, kForm>(p);
      case 3:
        return Tile<(kMost >= 3 ? 3 : 1), Vecs, kForm>(p);
      case 4:
        return Tile<(kMost >= 4 ? 4 : 1), Vecs, kForm>(p);
      case 5:
        return Tile<(kMost >= 5 ? 5 : 1), Vecs, kForm>(p);
      default:
        return Tile<(kMost >= 6 ? 6 : 1), Vecs, kForm>(p);
    }
  }
  static_assert(V::kTileRows >= 2 && V::kTileRows <= 6);

  template <Form kForm>
  static void TileVecs(int vecs, int64_t rows, const TileArgs& p) {
    static_assert(V::kTileVecs == 1 || V::kTileVecs == 4);
    if constexpr (V::kTileVecs == 1) {
      TileRows<1, kForm>(rows, p);
    } else {
      switch (vecs) {
        case 1:
          return TileRows<1, kForm>(rows, p);
        case 2:
          return TileRows<2, kForm>(rows, p);
        case 3:
          return TileRows<3, kForm>(rows, p);
        default:
          return TileRows<4, kForm>(rows, p);
      }
    }
  }

  // A block of compressed weights to the layout of kBF16 or kF32.
  static void Decode(WeightFormat format, const std::byte* w, int64_t cols, int vecs,
                     std::byte* out) {
    if (format == WeightFormat::kE4M3) {
      for (int64_t k = 0; k < cols; k += 4) {
        for (int v = 0; v < vecs; ++v) {
          U first, second;
          V::DecodeE4M3(w + v * 64, first, second);
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
    const int64_t tile_rows = V::kTileRows;
    const int64_t tiles = (p.rows + tile_rows - 1) / tile_rows;
    const bool codes = p.format == WeightFormat::kE4M3 && tiles == 1;
    const bool decode =
        p.format == WeightFormat::kF16 || (p.format == WeightFormat::kE4M3 && !codes);
    const Form form = codes ? Form::kCodes
                      : p.format == WeightFormat::kF32 || p.format == WeightFormat::kF16
                          ? Form::kFloats
                          : Form::kPairs;
    const int64_t stored_col =
        p.vecs * (p.format == WeightFormat::kE4M3  ? 16
                  : p.format == WeightFormat::kF32 ? 64
                                                   : 32);  // bytes of one column
    const bool stream =
        tiles == 1 && !decode && p.scales == nullptr;  // nothing to keep in L1: one pass
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
      tile.next = stored + (tiles == 1 ? 4096 : cols * stored_col);

      int64_t row = 0;
      for (int64_t i = 0; i < tiles; ++i) {
        const int64_t rows = p.rows / tiles + (i < p.rows % tiles ? 1 : 0);
        tile.x = p.x + row * p.x_stride + k;
        tile.x_scales =
            p.x_scales != nullptr ? p.x_scales + row * p.x_scale_stride + block : nullptr;
        for (int v = 0; v < p.vecs; v += V::kTileVecs) {
          tile.w = w + v * 64;
          tile.c = p.c + row * kPanelRows + v * kLanes;
          tile.scales = p.scales != nullptr ? p.scales + block * p.vecs + v : nullptr;
          switch (form) {
            case Form::kPairs:
              TileVecs<Form::kPairs>(p.vecs, rows, tile);
              break;
            case Form::kFloats:
              TileVecs<Form::kFloats>(p.vecs, rows, tile);
              break;
            case Form::kCodes:
              TileVecs<Form::kCodes>(p.vecs, rows, tile);
          }
          tile.next += tile.next_lines * steps * 64;
        }
        row += rows;
      }
    }
  }
};

}  // namespace shoal::cpu
