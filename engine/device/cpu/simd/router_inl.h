// SPDX-License-Identifier: Apache-2.0
// Router logits from unrounded f32 rows and weights as stored. A logit is 16 chains of fused
// multiply-adds along k and a fixed tree, whatever rows and experts are computed beside it.
#pragma once

#include <cstdint>

#include "engine/device/cpu/simd/isa.h"
#include "engine/device/cpu/simd/math_inl.h"
#include "engine/device/cpu/simd/unroll.h"

namespace shoal::cpu {

template <class V>
struct Router {
  using F = typename V::F;

  static SHOAL_INLINE F LoadWeights(const float* p) { return V::Load(p); }
  static SHOAL_INLINE F LoadWeights(const uint16_t* p) { return V::LoadBF16(p); }

  template <int Rows, int Experts, typename W>
  static void Tile(const float* x, const W* w, int64_t n, float* logits, int64_t logits_stride) {
    F acc[Rows][Experts];
    SHOAL_UNROLL
    for (int r = 0; r < Rows; ++r) {
      SHOAL_UNROLL
      for (int e = 0; e < Experts; ++e) acc[r][e] = V::Zero();
    }
    const int64_t whole = n / kLanes * kLanes;
    for (int64_t k = 0; k < whole; k += kLanes) {
      F row[Rows];
      SHOAL_UNROLL
      for (int r = 0; r < Rows; ++r) row[r] = V::Load(x + r * n + k);
      SHOAL_UNROLL
      for (int e = 0; e < Experts; ++e) {
        const F weight = LoadWeights(w + e * n + k);
        SHOAL_UNROLL
        for (int r = 0; r < Rows; ++r) acc[r][e] = V::MulAdd(row[r], weight, acc[r][e]);
      }
    }
    if (whole < n) {
      SHOAL_UNROLL
      for (int e = 0; e < Experts; ++e) {
        W weight[kLanes] = {};
        for (int64_t i = whole; i < n; ++i) weight[i - whole] = w[e * n + i];
        SHOAL_UNROLL
        for (int r = 0; r < Rows; ++r) {
          float row[kLanes] = {};
          for (int64_t i = whole; i < n; ++i) row[i - whole] = x[r * n + i];
          acc[r][e] = V::MulAdd(V::Load(row), LoadWeights(weight), acc[r][e]);
        }
      }
    }
    for (int r = 0; r < Rows; ++r) {
      for (int e = 0; e < Experts; ++e) logits[r * logits_stride + e] = Math<V>::Sum(acc[r][e]);
    }
  }

  template <typename W>
  static void Run(const float* x, int64_t rows, const W* w, int64_t experts, int64_t n,
                  float* logits, int64_t logits_stride) {
    constexpr int kRows = V::kTileRows >= 4 ? 4 : 2;
    constexpr int kExperts = V::kTileRows >= 6 ? 4 : 1;
    for (int64_t e = 0; e < experts;) {
      const bool many = e + kExperts <= experts;
      for (int64_t r = 0; r < rows;) {
        const bool tall = r + kRows <= rows;
        float* out = logits + r * logits_stride + e;
        if (many) {
          tall ? Tile<kRows, kExperts>(x + r * n, w + e * n, n, out, logits_stride)
               : Tile<1, kExperts>(x + r * n, w + e * n, n, out, logits_stride);
        } else {
          tall ? Tile<kRows, 1>(x + r * n, w + e * n, n, out, logits_stride)
               : Tile<1, 1>(x + r * n, w + e * n, n, out, logits_stride);
        }
        r += tall ? kRows : 1;
      }
      e += many ? kExperts : 1;
    }
  }
};

}  // namespace shoal::cpu
