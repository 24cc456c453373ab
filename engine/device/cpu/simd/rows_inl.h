// SPDX-License-Identifier: Apache-2.0
// Operations on single rows. Reductions run over 16 lanes (four accumulators of them in the norm)
// and end in a fixed tree; a tail of fewer than 16 elements is padded with zeros.
#pragma once

#include <cstdint>

#include "engine/device/cpu/simd/isa.h"
#include "engine/device/cpu/simd/math_inl.h"
#include "engine/device/cpu/simd/unroll.h"

namespace shoal::cpu {

template <class V>
struct Rows {
  using F = typename V::F;
  using U = typename V::U;
  using M = Math<V>;

  // Up to 15 elements as a vector, zeros behind them.
  static SHOAL_INLINE F LoadPart(const float* p, int64_t n) {
    float part[kLanes] = {};
    for (int64_t i = 0; i < n; ++i) part[i] = p[i];
    return V::Load(part);
  }
  static SHOAL_INLINE void StorePart(float* p, F x, int64_t n) {
    float part[kLanes];
    V::Store(part, x);
    for (int64_t i = 0; i < n; ++i) p[i] = part[i];
  }

  // The f32 bits whose upper half is bf16(x), to nearest even.
  static SHOAL_INLINE U RoundBF16(F x) {
    const U bits = V::AsU(x);
    const U lsb = V::And(V::template ShiftRight<16>(bits), V::SetU(1));
    const U rounded = V::AddU(bits, V::AddU(lsb, V::SetU(0x7fff)));
    return V::SelectNaN(x, V::Or(bits, V::SetU(0x400000)), rounded);
  }

  static void ToBF16(const float* x, int64_t n, uint16_t* y) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) V::StoreHigh(y + i, RoundBF16(V::Load(x + i)));
    if (i < n) {
      uint16_t part[kLanes];
      V::StoreHigh(part, RoundBF16(LoadPart(x + i, n - i)));
      for (int64_t j = 0; i + j < n; ++j) y[i + j] = part[j];
    }
  }

  template <F (*kLoad)(const uint16_t*)>
  static void Widen(const uint16_t* x, int64_t n, float* y) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) V::Store(y + i, kLoad(x + i));
    if (i < n) {
      uint16_t part[kLanes] = {};
      for (int64_t j = 0; i + j < n; ++j) part[j] = x[i + j];
      StorePart(y + i, kLoad(part), n - i);
    }
  }

  static void Add(float* x, const float* y, int64_t n) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) V::Store(x + i, V::Add(V::Load(x + i), V::Load(y + i)));
    for (; i < n; ++i) x[i] = x[i] + y[i];
  }

  static void AddScaledF32(float* y, float w, const float* x, int64_t n) {
    const F scale = V::Set(w);
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes)
      V::Store(y + i, V::Add(V::Load(y + i), V::Mul(scale, V::Load(x + i))));
    for (; i < n; ++i) y[i] = y[i] + w * x[i];
  }

  static void AddScaledBF16(float* y, float w, const uint16_t* x, int64_t n) {
    const F scale = V::Set(w);
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes)
      V::Store(y + i, V::Add(V::Load(y + i), V::Mul(scale, V::LoadBF16(x + i))));
    for (; i < n; ++i) {
      const uint32_t bits = static_cast<uint32_t>(x[i]) << 16;
      float value;
      __builtin_memcpy(&value, &bits, 4);
      y[i] = y[i] + w * value;
    }
  }

  static void RmsNorm(const float* x, const float* w, int64_t n, float eps, float* y) {
    F acc[4] = {V::Zero(), V::Zero(), V::Zero(), V::Zero()};
    int64_t i = 0;
    for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
      SHOAL_UNROLL
      for (int j = 0; j < 4; ++j) {
        const F value = V::Load(x + i + j * kLanes);
        acc[j] = V::Add(acc[j], V::Mul(value, value));
      }
    }
    for (; i < n; i += kLanes) {
      const F value = i + kLanes <= n ? V::Load(x + i) : LoadPart(x + i, n - i);
      acc[0] = V::Add(acc[0], V::Mul(value, value));
    }
    const float sum = M::Sum(V::Add(V::Add(acc[0], acc[1]), V::Add(acc[2], acc[3])));
    const float scale = 1.0f / __builtin_sqrtf(sum / static_cast<float>(n) + eps);
    i = 0;
    for (; i + kLanes <= n; i += kLanes) {
      V::Store(y + i, V::Mul(V::Mul(V::Load(x + i), V::Set(scale)), V::Load(w + i)));
    }
    for (; i < n; ++i) y[i] = x[i] * scale * w[i];
  }

  static void SiluMul(float* gate, const float* up, int64_t n) {
    for (int64_t i = 0; i < n; i += kLanes) {
      const bool whole = i + kLanes <= n;
      const F g = whole ? V::Load(gate + i) : LoadPart(gate + i, n - i);
      const F u = whole ? V::Load(up + i) : LoadPart(up + i, n - i);
      const F y = V::Mul(V::Mul(g, M::Sigmoid(g)), u);
      whole ? V::Store(gate + i, y) : StorePart(gate + i, y, n - i);
    }
  }

  static void ExpMinus(const float* x, float shift, int64_t n, float* y) {
    for (int64_t i = 0; i < n; i += kLanes) {
      const bool whole = i + kLanes <= n;
      const F e = M::Exp(V::Sub(whole ? V::Load(x + i) : LoadPart(x + i, n - i), V::Set(shift)));
      whole ? V::Store(y + i, e) : StorePart(y + i, e, n - i);
    }
  }

  static void Sigmoid(const float* x, int64_t n, float* y) {
    for (int64_t i = 0; i < n; i += kLanes) {
      const bool whole = i + kLanes <= n;
      const F e = M::Sigmoid(whole ? V::Load(x + i) : LoadPart(x + i, n - i));
      whole ? V::Store(y + i, e) : StorePart(y + i, e, n - i);
    }
  }

  // E4M3 to nearest even, saturating at 448, as an f32: normal numbers keep 3 bits of mantissa;
  // below 2^-6 the step is 2^-9, which is the last bit of numbers around 1.5 * 2^14.
  static SHOAL_INLINE F RoundE4M3(F x) {
    const F bounded = V::Min(V::Set(448.0f), V::Max(V::Set(-448.0f), x));
    const U bits = V::AsU(bounded);
    const U lsb = V::And(V::template ShiftRight<20>(bits), V::SetU(1));
    const U rounded = V::And(V::AddU(bits, V::AddU(lsb, V::SetU(0x7ffff))), V::SetU(0xfff00000u));
    const F normal = V::AsF(V::SelectNaN(x, V::SetU(0x7fc00000u), rounded));
    const F magic = V::Set(24576.0f);
    const F subnormal = V::Sub(V::Add(bounded, magic), magic);
    return V::SelectLess(V::Abs(bounded), V::Set(0x1p-6f), subnormal, normal);
  }

  static void Quantise(const float* x, int64_t n, int64_t block, bool ue8m0, uint16_t* y,
                       float* scales) {
    for (int64_t begin = 0; begin < n; begin += block) {
      const int64_t cols = n - begin < block ? n - begin : block;
      F largest = V::Set(1e-4f);
      for (int64_t i = 0; i < cols; i += kLanes) {
        const float* p = x + begin + i;
        largest = V::Max(largest, V::Abs(i + kLanes <= cols ? V::Load(p) : LoadPart(p, cols - i)));
      }
      float lanes[kLanes];
      V::Store(lanes, largest);
      float max = lanes[0];
      for (int i = 1; i < kLanes; ++i)
        max = lanes[i] > max || lanes[i] != lanes[i] ? lanes[i] : max;
      float scale = max / 448.0f;
      if (ue8m0) {  // the next power of two
        uint32_t bits;
        __builtin_memcpy(&bits, &scale, 4);
        bits = (bits + 0x7fffffu) & 0xff800000u;
        __builtin_memcpy(&scale, &bits, 4);
      }
      *scales++ = scale;
      for (int64_t i = 0; i < cols; i += kLanes) {
        const bool whole = i + kLanes <= cols;
        const float* p = x + begin + i;
        const F value = V::Div(whole ? V::Load(p) : LoadPart(p, cols - i), V::Set(scale));
        if (whole) {
          V::StoreHigh(y + begin + i, V::AsU(RoundE4M3(value)));
        } else {
          uint16_t part[kLanes];
          V::StoreHigh(part, V::AsU(RoundE4M3(value)));
          for (int64_t j = 0; i + j < cols; ++j) y[begin + i + j] = part[j];
        }
      }
    }
  }
};

}  // namespace shoal::cpu
