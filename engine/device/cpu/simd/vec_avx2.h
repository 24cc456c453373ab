// SPDX-License-Identifier: Apache-2.0
// 16-lane vectors as two AVX2 registers (with FMA and F16C). Included by avx2.cc only.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "engine/device/cpu/simd/e4m3_table.h"
#include "engine/device/cpu/simd/unroll.h"

namespace shoal::cpu {

struct Avx2 {
  struct F {
    __m256 a, b;
  };
  struct U {
    __m256i a, b;
  };

  // 8 accumulator registers, 4 of weights, 2 of the row in 16.
  static constexpr int kTileRows = 4;
  static constexpr int kTileVecs = 1;
  static constexpr int kScoreRows1 = 4;
  static constexpr int kScoreRows2 = 2;
  static constexpr int kValueHeads = 2;

  static SHOAL_INLINE F Zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static SHOAL_INLINE F Set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static SHOAL_INLINE F Load(const float* p) {
    return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
  }
  static SHOAL_INLINE void Store(float* p, F x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
  }
  static SHOAL_INLINE F Add(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
  static SHOAL_INLINE F Sub(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
  static SHOAL_INLINE F Mul(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
  static SHOAL_INLINE F Div(F x, F y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
  static SHOAL_INLINE F MulAdd(F x, F y, F z) {
    return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
  }
  static SHOAL_INLINE F Max(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
  static SHOAL_INLINE F Min(F x, F y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
  static SHOAL_INLINE F Abs(F x) { return AsF(And(AsU(x), SetU(0x7fffffffu))); }
  static SHOAL_INLINE F SelectLess(F x, F y, F yes, F no) {
    return {_mm256_blendv_ps(no.a, yes.a, _mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ)),
            _mm256_blendv_ps(no.b, yes.b, _mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ))};
  }

  static SHOAL_INLINE U LoadU(const void* p) {
    const auto* q = static_cast<const __m256i*>(p);
    return {_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
  }
  static SHOAL_INLINE void StoreU(void* p, U x) {
    auto* q = static_cast<__m256i*>(p);
    _mm256_storeu_si256(q, x.a);
    _mm256_storeu_si256(q + 1, x.b);
  }
  static SHOAL_INLINE U SetU(uint32_t x) {
    return {_mm256_set1_epi32(static_cast<int>(x)), _mm256_set1_epi32(static_cast<int>(x))};
  }
  static SHOAL_INLINE U AddU(U x, U y) {
    return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)};
  }
  static SHOAL_INLINE U And(U x, U y) {
    return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)};
  }
  static SHOAL_INLINE U Or(U x, U y) {
    return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)};
  }
  static SHOAL_INLINE U Xor(U x, U y) {
    return {_mm256_xor_si256(x.a, y.a), _mm256_xor_si256(x.b, y.b)};
  }
  template <int kBits>
  static SHOAL_INLINE U ShiftLeft(U x) {
    return {_mm256_slli_epi32(x.a, kBits), _mm256_slli_epi32(x.b, kBits)};
  }
  template <int kBits>
  static SHOAL_INLINE U ShiftRight(U x) {
    return {_mm256_srli_epi32(x.a, kBits), _mm256_srli_epi32(x.b, kBits)};
  }
  static SHOAL_INLINE U AsU(F x) { return {_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)}; }
  static SHOAL_INLINE F AsF(U x) { return {_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)}; }
  static SHOAL_INLINE U ToInt(F x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
  static SHOAL_INLINE F FromInt(U x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
  static SHOAL_INLINE U SelectNaN(F x, U yes, U no) {
    const __m256i ma = _mm256_castps_si256(_mm256_cmp_ps(x.a, x.a, _CMP_UNORD_Q));
    const __m256i mb = _mm256_castps_si256(_mm256_cmp_ps(x.b, x.b, _CMP_UNORD_Q));
    return {_mm256_blendv_epi8(no.a, yes.a, ma), _mm256_blendv_epi8(no.b, yes.b, mb)};
  }

  // As vdpbf16ps does it: odd, then even. A product of two bf16 is exact in f32.
  static SHOAL_INLINE F Dot(F acc, U x, U y) {
    const U odd = SetU(0xffff0000u);
    acc = MulAdd(AsF(And(x, odd)), AsF(And(y, odd)), acc);
    return MulAdd(AsF(ShiftLeft<16>(x)), AsF(ShiftLeft<16>(y)), acc);
  }

  static SHOAL_INLINE F LoadBF16(const uint16_t* p) {
    const auto* q = reinterpret_cast<const __m128i*>(p);
    return AsF(ShiftLeft<16>({_mm256_cvtepu16_epi32(_mm_loadu_si128(q)),
                              _mm256_cvtepu16_epi32(_mm_loadu_si128(q + 1))}));
  }
  static SHOAL_INLINE F LoadF16(const uint16_t* p) {
    const auto* q = reinterpret_cast<const __m128i*>(p);
    return {_mm256_cvtph_ps(_mm_loadu_si128(q)), _mm256_cvtph_ps(_mm_loadu_si128(q + 1))};
  }
  static SHOAL_INLINE void StoreHigh(uint16_t* p, U x) {
    x = ShiftRight<16>(x);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(x.a, x.b), 0xd8);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), packed);
  }

  // 32 codes to the low and the high bytes of their bf16. Normal numbers move the exponent's bias
  // from 7 to 127, the 8 smallest come from a table.
  static SHOAL_INLINE void DecodeHalf(__m256i codes, __m256i& a, __m256i& b) {
    const __m256i index = _mm256_and_si256(codes, _mm256_set1_epi8(0x7f));
    const __m256i small = _mm256_cmpgt_epi8(_mm256_set1_epi8(8), index);
    const __m256i nan = _mm256_cmpeq_epi8(index, _mm256_set1_epi8(0x7f));
    const __m256i low_table = _mm256_broadcastsi128_si256(
        _mm_load_si128(reinterpret_cast<const __m128i*>(kE4M3Table.bytes)));
    const __m256i high_table = _mm256_broadcastsi128_si256(
        _mm_load_si128(reinterpret_cast<const __m128i*>(kE4M3Table.bytes + 128)));
    __m256i low =
        _mm256_and_si256(_mm256_slli_epi16(codes, 4), _mm256_set1_epi8(static_cast<char>(0xf0)));
    __m256i high =
        _mm256_add_epi8(_mm256_and_si256(_mm256_srli_epi16(codes, 4), _mm256_set1_epi8(0x07)),
                        _mm256_set1_epi8(0x3c));
    low = _mm256_blendv_epi8(low, _mm256_shuffle_epi8(low_table, index), small);
    high = _mm256_blendv_epi8(high, _mm256_shuffle_epi8(high_table, index), small);
    low = _mm256_blendv_epi8(low, _mm256_set1_epi8(static_cast<char>(0xc0)), nan);
    high = _mm256_blendv_epi8(high, _mm256_set1_epi8(0x7f), nan);
    high =
        _mm256_or_si256(high, _mm256_and_si256(codes, _mm256_set1_epi8(static_cast<char>(0x80))));
    a = _mm256_unpacklo_epi8(low, high);
    b = _mm256_unpackhi_epi8(low, high);
  }
  static SHOAL_INLINE void DecodeE4M3(const std::byte* p, U& a, U& b) {
    const U codes = LoadU(p);
    DecodeHalf(codes.a, a.a, b.a);
    DecodeHalf(codes.b, a.b, b.b);
  }

  static SHOAL_INLINE void PairRows(const uint16_t* row0, const uint16_t* row1, U& a, U& b) {
    const U x = LoadU(row0), y = LoadU(row1);
    a = {_mm256_unpacklo_epi16(x.a, y.a), _mm256_unpacklo_epi16(x.b, y.b)};
    b = {_mm256_unpackhi_epi16(x.a, y.a), _mm256_unpackhi_epi16(x.b, y.b)};
  }
  static SHOAL_INLINE void PairRow(const uint16_t* row0, U& a, U& b) {
    const U x = LoadU(row0);
    const __m256i zero = _mm256_setzero_si256();
    a = {_mm256_unpacklo_epi16(x.a, zero), _mm256_unpacklo_epi16(x.b, zero)};
    b = {_mm256_unpackhi_epi16(x.a, zero), _mm256_unpackhi_epi16(x.b, zero)};
  }
  static SHOAL_INLINE void Unpair(F a, F b, F& x, F& y) {
    x = {_mm256_permute2f128_ps(a.a, b.a, 0x20), _mm256_permute2f128_ps(a.a, b.a, 0x31)};
    y = {_mm256_permute2f128_ps(a.b, b.b, 0x20), _mm256_permute2f128_ps(a.b, b.b, 0x31)};
  }

  static SHOAL_INLINE void Transpose(const uint32_t* in, int64_t in_stride, uint32_t* out,
                                     int64_t out_stride) {
    for (int i = 0; i < 16; ++i) {
      for (int j = 0; j < 16; ++j) out[i * out_stride + j] = in[j * in_stride + i];
    }
  }
};

}  // namespace shoal::cpu
