// SPDX-License-Identifier: Apache-2.0
// Absorbed latent attention (arXiv:2405.04434 sec. 2.1.2) over one tile of cache rows. All 16 heads
// of a column are the lanes of one vector, so a cache row is read once for all of them, scores come
// out transposed and the softmax has no horizontal step. Scores and weighted sums are bf16 products
// in f32. A weight enters its product as two bf16 values, itself rounded and the rest: the cheapest
// rounding to do without, and one less that can turn a near tie between experts.
//
// Scores of a position depend on that position only. Sums run over positions in order, in pairs
// from an even position of the tile (first the rests, then the rounded weights; of each the odd one
// first); positions past the end are not read.
#pragma once

#include <cstdint>

#include "engine/device/cpu/simd/isa.h"
#include "engine/device/cpu/simd/math_inl.h"
#include "engine/device/cpu/simd/unroll.h"

namespace shoal::cpu {

template <class V>
struct Attend {
  using F = typename V::F;
  using U = typename V::U;
  using M = Math<V>;

  static void PackColumn(const uint16_t* q, int64_t width, int heads, uint32_t* packed) {
    int64_t pair = 0;
    if (heads == kColumnHeads && width % 2 == 0) {
      uint32_t in[kColumnHeads][kLanes];
      for (; pair + kLanes <= width / 2; pair += kLanes) {
        for (int h = 0; h < kColumnHeads; ++h) {
          __builtin_memcpy(in[h], q + h * width + 2 * pair, sizeof(in[h]));
        }
        V::Transpose(in[0], kLanes, packed + pair * kColumnHeads, kColumnHeads);
      }
    }
    for (; pair < (width + 1) / 2; ++pair) {
      for (int h = 0; h < kColumnHeads; ++h) {
        uint32_t value = 0;
        if (h < heads) {
          value = q[h * width + 2 * pair];
          if (2 * pair + 1 < width)
            value |= static_cast<uint32_t>(q[h * width + 2 * pair + 1]) << 16;
        }
        packed[pair * kColumnHeads + h] = value;
      }
    }
  }

  template <int Columns, int Positions>
  static void Scores(const uint32_t* q0, const uint32_t* q1, const uint16_t* cache, int64_t stride,
                     int64_t pairs, const uint16_t* next, float* scores0, float* scores1) {
    F acc[Columns][Positions];
    SHOAL_UNROLL
    for (int c = 0; c < Columns; ++c) {
      SHOAL_UNROLL
      for (int s = 0; s < Positions; ++s) acc[c][s] = V::Zero();
    }
    // Two bases, so that addresses are base + {0..7} strides.
    const uint16_t* low = cache;
    const uint16_t* high = cache + 8 * stride;
    for (int64_t k = 0; k < pairs; ++k) {
      // The rows scored next, as many bytes per step as a step reads.
      __builtin_prefetch(next, 0, 3);
      next += 2 * Positions;
      U q[Columns];
      q[0] = V::LoadU(q0 + k * kColumnHeads);
      if constexpr (Columns == 2) q[1] = V::LoadU(q1 + k * kColumnHeads);
      SHOAL_UNROLL
      for (int s = 0; s < Positions; ++s) {
        uint32_t pair;
        __builtin_memcpy(&pair, s < 8 ? low + s * stride : high + (s - 8) * stride, 4);
        const U row = V::SetU(pair);
        SHOAL_UNROLL
        for (int c = 0; c < Columns; ++c) acc[c][s] = V::Dot(acc[c][s], q[c], row);
      }
      low += 2;
      high += 2;
    }
    SHOAL_UNROLL
    for (int s = 0; s < Positions; ++s) {
      V::Store(scores0 + s * kColumnHeads, acc[0][s]);
      if constexpr (Columns == 2) V::Store(scores1 + s * kColumnHeads, acc[1][s]);
    }
  }

  static void TileScores(const uint32_t* q0, const uint32_t* q1, const uint16_t* cache,
                         int64_t stride, int64_t width, int positions, const uint16_t* next,
                         float* scores0, float* scores1) {
    const int64_t pairs = width / 2;
    const int step = q1 != nullptr ? V::kScoreRows2 : V::kScoreRows1;
    for (int s = 0; s < positions; s += step) {
      const uint16_t* rows = cache + s * stride;
      const uint16_t* after = s + step < positions ? rows + step * stride : next;
      float* out0 = scores0 + s * kColumnHeads;
      if (q1 != nullptr) {
        Scores<2, V::kScoreRows2>(q0, q1, rows, stride, pairs, after, out0,
                                  scores1 + s * kColumnHeads);
      } else {
        Scores<1, V::kScoreRows1>(q0, nullptr, rows, stride, pairs, after, out0, nullptr);
      }
    }
  }

  // bf16(x) as f32 bits, for finite x >= 0.
  static SHOAL_INLINE U RoundPositive(F x) {
    const U bits = V::AsU(x);
    const U lsb = V::And(V::template ShiftRight<16>(bits), V::SetU(1));
    return V::And(V::AddU(bits, V::AddU(lsb, V::SetU(0x7fff))), V::SetU(0xffff0000u));
  }

  // Heads x 32 columns of out: out = out * decay + sum over pairs of weights * rows. A pair's
  // weights lie in two vectors of heads: rounded, rest.
  template <int Heads>
  static void Values(const uint32_t* weights, const uint16_t* cache, int64_t stride, int positions,
                     const float* decay, bool first, float* out, int64_t out_stride) {
    F acc[Heads][2];
    SHOAL_UNROLL
    for (int h = 0; h < Heads; ++h) {
      if (first) {
        acc[h][0] = acc[h][1] = V::Zero();
      } else {
        const F old = V::Set(decay[h]);
        acc[h][0] = V::Mul(V::Load(out + h * out_stride), old);
        acc[h][1] = V::Mul(V::Load(out + h * out_stride + kLanes), old);
      }
    }
    for (int s = 0; s < positions; s += 2) {
      U a, b;
      if (s + 1 < positions) {
        V::PairRows(cache + s * stride, cache + (s + 1) * stride, a, b);
      } else {
        V::PairRow(cache + s * stride, a, b);
      }
      SHOAL_UNROLL
      for (int h = 0; h < Heads; ++h) {
        const U rest = V::SetU(weights[(s + 1) * kColumnHeads + h]);
        acc[h][0] = V::Dot(acc[h][0], a, rest);
        acc[h][1] = V::Dot(acc[h][1], b, rest);
        const U weight = V::SetU(weights[s * kColumnHeads + h]);
        acc[h][0] = V::Dot(acc[h][0], a, weight);
        acc[h][1] = V::Dot(acc[h][1], b, weight);
      }
    }
    SHOAL_UNROLL
    for (int h = 0; h < Heads; ++h) {
      V::Store(out + h * out_stride, acc[h][0]);
      V::Store(out + h * out_stride + kLanes, acc[h][1]);
    }
  }

  static void TileValues(const float* scores, const uint16_t* cache, int64_t stride,
                         int64_t value_width, int positions, float scale, bool first,
                         uint32_t* weights, const ColumnState& state) {
    F max = first ? V::Load(scores) : V::Load(state.max);
    for (int s = first ? 1 : 0; s < positions; ++s)
      max = V::Max(max, V::Load(scores + s * kColumnHeads));
    const F factor = V::Set(scale);
    F sum = V::Zero();
    float decay[kColumnHeads];
    if (!first) {
      const F old = M::Exp2(V::Mul(V::Sub(V::Load(state.max), max), factor));
      V::Store(decay, old);
      sum = V::Mul(V::Load(state.sum), old);
    }
    for (int s = 0; s < positions; s += 2) {
      const F even = M::Exp2(V::Mul(V::Sub(V::Load(scores + s * kColumnHeads), max), factor));
      sum = V::Add(sum, even);
      const U even_high = RoundPositive(even);
      U high = V::template ShiftRight<16>(even_high);
      U low = V::template ShiftRight<16>(V::AsU(V::Sub(even, V::AsF(even_high))));
      if (s + 1 < positions) {
        const F odd =
            M::Exp2(V::Mul(V::Sub(V::Load(scores + (s + 1) * kColumnHeads), max), factor));
        sum = V::Add(sum, odd);
        const U odd_high = RoundPositive(odd);
        high = V::Or(high, odd_high);
        low = V::Or(low, V::And(V::AsU(V::Sub(odd, V::AsF(odd_high))), V::SetU(0xffff0000u)));
      }
      V::StoreU(weights + s * kColumnHeads, high);
      V::StoreU(weights + (s + 1) * kColumnHeads, low);
    }
    V::Store(state.max, max);
    V::Store(state.sum, sum);
    for (int64_t r = 0; r < value_width; r += kValueUnit) {
      for (int h = 0; h < kColumnHeads; h += V::kValueHeads) {
        Values<V::kValueHeads>(weights + h, cache + r, stride, positions, decay + h, first,
                               state.out + h * value_width + r, value_width);
      }
    }
  }

  static void MergeColumns(const ColumnState& whole, const ColumnState& part, int64_t value_width,
                           float scale, bool first) {
    float old_decay[kColumnHeads], new_decay[kColumnHeads];
    if (first) {
      V::Store(whole.max, V::Load(part.max));
      V::Store(whole.sum, V::Load(part.sum));
    } else {
      const F old_max = V::Load(whole.max), new_max = V::Load(part.max);
      const F max = V::Max(old_max, new_max);
      const F a = M::Exp2(V::Mul(V::Sub(old_max, max), V::Set(scale)));
      const F b = M::Exp2(V::Mul(V::Sub(new_max, max), V::Set(scale)));
      V::Store(old_decay, a);
      V::Store(new_decay, b);
      V::Store(whole.max, max);
      V::Store(whole.sum, V::Add(V::Mul(V::Load(whole.sum), a), V::Mul(V::Load(part.sum), b)));
    }
    for (int h = 0; h < kColumnHeads; ++h) {
      float* out = whole.out + h * value_width;
      const float* add = part.out + h * value_width;
      for (int64_t r = 0; r < value_width; r += kLanes) {
        V::Store(out + r, first ? V::Load(add + r)
                                : V::Add(V::Mul(V::Load(out + r), V::Set(old_decay[h])),
                                         V::Mul(V::Load(add + r), V::Set(new_decay[h]))));
      }
    }
  }

  static void FinishColumn(const ColumnState& state, int64_t value_width, int heads, int64_t n,
                           uint16_t* out, int64_t out_stride) {
    for (int h = 0; h < heads; ++h) {
      const F inverse = V::Set(1.0f / state.sum[h]);
      for (int64_t r = 0; r < n; r += kValueUnit) {
        const float* p = state.out + h * value_width + r;
        F x, y;
        V::Unpair(V::Load(p), V::Load(p + kLanes), x, y);
        uint16_t rounded[kValueUnit];
        V::StoreHigh(rounded, Rows<V>::RoundBF16(V::Mul(x, inverse)));
        V::StoreHigh(rounded + kLanes, Rows<V>::RoundBF16(V::Mul(y, inverse)));
        const int64_t columns = n - r < kValueUnit ? n - r : kValueUnit;
        __builtin_memcpy(out + h * out_stride + r, rounded, columns * sizeof(uint16_t));
      }
    }
  }
};

}  // namespace shoal::cpu
