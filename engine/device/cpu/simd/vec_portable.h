// SPDX-License-Identifier: Apache-2.0
// 16-lane vectors in the compilers' own vector types: any processor. Included by portable.cc only.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/device/cpu/simd/e4m3_table.h"
#include "engine/device/cpu/simd/unroll.h"

namespace shoal::cpu {

struct Portable {
  typedef float F __attribute__((vector_size(64)));
  typedef uint32_t U __attribute__((vector_size(64)));
  typedef int32_t I __attribute__((vector_size(64)));

  static constexpr int kTileRows = 2;
  static constexpr int kTileVecs = 1;
  static constexpr int kScoreRows1 = 2;
  static constexpr int kScoreRows2 = 1;
  static constexpr int kValueHeads = 1;

  static SHOAL_INLINE F Zero() { return F{}; }
  static SHOAL_INLINE F Set(float x) { return F{} + x; }
  static SHOAL_INLINE F Load(const float* p) {
    F x;
    __builtin_memcpy(&x, p, sizeof(x));
    return x;
  }
  static SHOAL_INLINE void Store(float* p, F x) { __builtin_memcpy(p, &x, sizeof(x)); }
  static SHOAL_INLINE F Add(F a, F b) { return a + b; }
  static SHOAL_INLINE F Sub(F a, F b) { return a - b; }
  static SHOAL_INLINE F Mul(F a, F b) { return a * b; }
  static SHOAL_INLINE F Div(F a, F b) { return a / b; }
  // Two roundings: a fused one would be a library call on machines without it.
  static SHOAL_INLINE F MulAdd(F a, F b, F c) { return a * b + c; }
  static SHOAL_INLINE F Blend(I mask, F yes, F no) {
    return AsF((reinterpret_cast<U>(mask) & AsU(yes)) | (~reinterpret_cast<U>(mask) & AsU(no)));
  }
  static SHOAL_INLINE F Max(F a, F b) { return Blend(a > b, a, b); }
  static SHOAL_INLINE F Min(F a, F b) { return Blend(a < b, a, b); }
  static SHOAL_INLINE F Abs(F a) { return AsF(AsU(a) & 0x7fffffffu); }
  static SHOAL_INLINE F SelectLess(F a, F b, F yes, F no) { return Blend(a < b, yes, no); }

  static SHOAL_INLINE U LoadU(const void* p) {
    U x;
    __builtin_memcpy(&x, p, sizeof(x));
    return x;
  }
  static SHOAL_INLINE void StoreU(void* p, U x) { __builtin_memcpy(p, &x, sizeof(x)); }
  static SHOAL_INLINE U SetU(uint32_t x) { return U{} + x; }
  static SHOAL_INLINE U AddU(U a, U b) { return a + b; }
  static SHOAL_INLINE U And(U a, U b) { return a & b; }
  static SHOAL_INLINE U Or(U a, U b) { return a | b; }
  static SHOAL_INLINE U Xor(U a, U b) { return a ^ b; }
  template <int kBits>
  static SHOAL_INLINE U ShiftLeft(U a) {
    return a << kBits;
  }
  template <int kBits>
  static SHOAL_INLINE U ShiftRight(U a) {
    return a >> kBits;
  }
  static SHOAL_INLINE U AsU(F x) { return reinterpret_cast<U>(x); }
  static SHOAL_INLINE F AsF(U x) { return reinterpret_cast<F>(x); }
  // |x| < 2^22: adding 1.5 * 2^23 rounds to nearest even and leaves the integer in the low bits.
  // NaN gives an integer.
  static SHOAL_INLINE U ToInt(F x) { return AsU(x + 12582912.0f) - 0x4b400000u; }
  static SHOAL_INLINE F FromInt(U x) { return __builtin_convertvector(reinterpret_cast<I>(x), F); }
  static SHOAL_INLINE U SelectNaN(F x, U yes, U no) {
    const U mask = reinterpret_cast<U>(I(x != x));
    return (mask & yes) | (~mask & no);
  }

  static SHOAL_INLINE F Dot(F acc, U a, U b) {
    acc += AsF(a & 0xffff0000u) * AsF(b & 0xffff0000u);
    return acc + AsF(a << 16) * AsF(b << 16);
  }

  static SHOAL_INLINE F LoadBF16(const uint16_t* p) {
    U x;
    for (int i = 0; i < 16; ++i) x[i] = static_cast<uint32_t>(p[i]) << 16;
    return AsF(x);
  }
  static SHOAL_INLINE F LoadF16(const uint16_t* p) {
    F y;
    for (int i = 0; i < 16; ++i) y[i] = F16(p[i]);
    return y;
  }
  static SHOAL_INLINE void StoreHigh(uint16_t* p, U x) {
    for (int i = 0; i < 16; ++i) p[i] = static_cast<uint16_t>(x[i] >> 16);
  }

  static SHOAL_INLINE void DecodeE4M3(const std::byte* p, U& a, U& b) {
    const uint8_t* table = kE4M3Table.bytes;
    uint16_t decoded[2][32];

    for (int i = 0; i < 64; ++i) {
      const auto code = static_cast<unsigned>(p[i]);
      const unsigned index = code & 0x7f;
      decoded[(i >> 3) & 1][(i >> 4) * 8 + (i & 7)] =
          static_cast<uint16_t>(table[index] | (table[128 + index] | (code & 0x80)) << 8);
    }
    a = LoadU(decoded[0]);
    b = LoadU(decoded[1]);
  }

  // Columns in their natural order: 0-15 and 16-31.
  static SHOAL_INLINE void PairRows(const uint16_t* row0, const uint16_t* row1, U& a, U& b) {
    for (int i = 0; i < 16; ++i) {
      a[i] = row0[i] | static_cast<uint32_t>(row1[i]) << 16;
      b[i] = row0[16 + i] | static_cast<uint32_t>(row1[16 + i]) << 16;
    }
  }
  static SHOAL_INLINE void PairRow(const uint16_t* row0, U& a, U& b) {
    for (int i = 0; i < 16; ++i) {
      a[i] = row0[i];
      b[i] = row0[16 + i];
    }
  }
  static SHOAL_INLINE void Unpair(F a, F b, F& x, F& y) {
    x = a;
    y = b;
  }

  static SHOAL_INLINE void Transpose(const uint32_t* in, int64_t in_stride, uint32_t* out,
                                     int64_t out_stride) {
    for (int i = 0; i < 16; ++i) {
      for (int j = 0; j < 16; ++j) out[i * out_stride + j] = in[j * in_stride + i];
    }
  }

 private:
  static SHOAL_INLINE float F16(uint16_t bits) {
    const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
    const uint32_t magnitude = bits & 0x7fff;
    // The exponent field moves from bias 15 to 127 by a product, which also makes subnormals
    // normal.
    uint32_t word = magnitude << 13;
    float value;
    __builtin_memcpy(&value, &word, 4);
    value *= 0x1p112f;
    __builtin_memcpy(&word, &value, 4);
    if (magnitude >= 0x7c00) word |= 0x7f800000u;  // infinity and NaN
    word |= sign;
    __builtin_memcpy(&value, &word, 4);
    return value;
  }
};

}  // namespace shoal::cpu
