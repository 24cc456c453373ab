// SPDX-License-Identifier: Apache-2.0
// exp and its relatives for 16 lanes: the same operations, each rounded once, in every instruction
// set, so that all of them give the same bits.
#pragma once

#include "engine/device/cpu/simd/isa.h"
#include "engine/device/cpu/simd/math_constants.h"
#include "engine/device/cpu/simd/unroll.h"

namespace shoal::cpu {

template <class V>
struct Math {
  using F = typename V::F;
  using U = typename V::U;

  // 2^f for |f| <= 1/2: the Taylor polynomial of degree 6, truncated at 1.2e-7.
  static SHOAL_INLINE F Exp2Fraction(F f) {
    F p = V::Set(1.5403530e-4f);
    p = V::Add(V::Mul(p, f), V::Set(1.3333558e-3f));
    p = V::Add(V::Mul(p, f), V::Set(9.6181291e-3f));
    p = V::Add(V::Mul(p, f), V::Set(5.5504109e-2f));
    p = V::Add(V::Mul(p, f), V::Set(2.4022651e-1f));
    p = V::Add(V::Mul(p, f), V::Set(6.9314718e-1f));
    return V::Add(V::Mul(p, f), V::Set(1.0f));
  }

  // 2^x, relative error below 3e-7; 0 below -126, 2^127 above 127; NaN stays NaN.
  static SHOAL_INLINE F Exp2(F x) {
    const F clamped = V::Min(V::Set(127.0f), V::Max(V::Set(-126.0f), x));
    const U n = V::ToInt(clamped);
    const F fraction = V::Sub(clamped, V::FromInt(n));
    const F power = V::AsF(V::template ShiftLeft<23>(V::AddU(n, V::SetU(127))));
    return V::SelectLess(x, V::Set(-126.0f), V::Zero(), V::Mul(Exp2Fraction(fraction), power));
  }

  // e^x, relative error below 3e-7 (the argument is reduced in two pieces of ln 2); 0 below -87.3.
  static SHOAL_INLINE F Exp(F x) {
    const F clamped = V::Min(V::Set(88.0f), V::Max(V::Set(-87.33654f), x));
    const U n = V::ToInt(V::Mul(clamped, V::Set(kLog2E)));
    const F k = V::FromInt(n);
    F r = V::Sub(clamped, V::Mul(k, V::Set(0.693359375f)));  // exact: 10 bits
    r = V::Sub(r, V::Mul(k, V::Set(-2.12194440e-4f)));
    const F fraction = V::Mul(r, V::Set(kLog2E));
    const F power = V::AsF(V::template ShiftLeft<23>(V::AddU(n, V::SetU(127))));
    return V::SelectLess(x, V::Set(-87.33654f), V::Zero(), V::Mul(Exp2Fraction(fraction), power));
  }

  static SHOAL_INLINE F Sigmoid(F x) {
    const F one = V::Set(1.0f);
    return V::Div(one, V::Add(one, Exp(V::Sub(V::Zero(), x))));
  }

  // The 16 lanes added in one fixed tree: halves, quarters, pairs.
  static SHOAL_INLINE float Sum(F x) {
    float a[kLanes];
    V::Store(a, x);
    for (int width = kLanes / 2; width > 0; width /= 2) {
      for (int i = 0; i < width; ++i) a[i] = a[i] + a[i + width];
    }
    return a[0];
  }
};

}  // namespace shoal::cpu
