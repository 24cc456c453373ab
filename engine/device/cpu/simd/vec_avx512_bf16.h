// SPDX-License-Identifier: Apache-2.0
// 16-lane vectors as one AVX-512 register, bf16 products by vdpbf16ps. Included by avx512_bf16.cc
// only.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "engine/device/cpu/simd/e4m3_table.h"
#include "engine/device/cpu/simd/unroll.h"

namespace shoal::cpu {

struct Avx512Bf16 {
  using F = __m512;   // 16 f32
  using U = __m512i;  // 16 dwords, or 32 bf16 in pairs

  // Register tile of products: 24 accumulators, 4 weights and a broadcast in 32 registers. A
  // product takes 6 cycles and two start per cycle (Zen 5), so 12 must be in flight.
  static constexpr int kTileRows = 6;
  static constexpr int kTileVecs = 4;
  // Attention: positions scored at once for one column and for two; heads x 2 accumulators of
  // values.
  static constexpr int kScoreRows1 = 16;
  static constexpr int kScoreRows2 = 8;
  static constexpr int kValueHeads = 8;

  static SHOAL_INLINE F Zero() { return _mm512_setzero_ps(); }
  static SHOAL_INLINE F Set(float x) { return _mm512_set1_ps(x); }
  static SHOAL_INLINE F Load(const float* p) { return _mm512_loadu_ps(p); }
  static SHOAL_INLINE void Store(float* p, F x) { _mm512_storeu_ps(p, x); }
  static SHOAL_INLINE F Add(F a, F b) { return _mm512_add_ps(a, b); }
  static SHOAL_INLINE F Sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static SHOAL_INLINE F Mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static SHOAL_INLINE F Div(F a, F b) { return _mm512_div_ps(a, b); }
  static SHOAL_INLINE F MulAdd(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  // A NaN in b wins.
  static SHOAL_INLINE F Max(F a, F b) { return _mm512_max_ps(a, b); }
  static SHOAL_INLINE F Min(F a, F b) { return _mm512_min_ps(a, b); }
  static SHOAL_INLINE F Abs(F a) { return _mm512_abs_ps(a); }
  static SHOAL_INLINE F SelectLess(F a, F b, F yes, F no) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
  }

  static SHOAL_INLINE U LoadU(const void* p) { return _mm512_loadu_si512(p); }
  static SHOAL_INLINE void StoreU(void* p, U x) { _mm512_storeu_si512(p, x); }
  static SHOAL_INLINE U SetU(uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); }
  static SHOAL_INLINE U AddU(U a, U b) { return _mm512_add_epi32(a, b); }
  static SHOAL_INLINE U And(U a, U b) { return _mm512_and_si512(a, b); }
  static SHOAL_INLINE U Or(U a, U b) { return _mm512_or_si512(a, b); }
  static SHOAL_INLINE U Xor(U a, U b) { return _mm512_xor_si512(a, b); }
  template <int kBits>
  static SHOAL_INLINE U ShiftLeft(U a) {
    return _mm512_slli_epi32(a, kBits);
  }
  template <int kBits>
  static SHOAL_INLINE U ShiftRight(U a) {
    return _mm512_srli_epi32(a, kBits);
  }
  static SHOAL_INLINE U AsU(F x) { return _mm512_castps_si512(x); }
  static SHOAL_INLINE F AsF(U x) { return _mm512_castsi512_ps(x); }
  // To the nearest integer, ties to even; NaN gives 0x80000000.
  static SHOAL_INLINE U ToInt(F x) { return _mm512_cvtps_epi32(x); }
  static SHOAL_INLINE F FromInt(U x) { return _mm512_cvtepi32_ps(x); }
  static SHOAL_INLINE U SelectNaN(F x, U yes, U no) {
    return _mm512_mask_blend_epi32(_mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), no, yes);
  }

  // acc + a.odd * b.odd, then + a.even * b.even: two fused multiply-adds, subnormals as zero.
  static SHOAL_INLINE F Dot(F acc, U a, U b) {
    return _mm512_dpbf16_ps(acc, (__m512bh)a, (__m512bh)b);
  }

  static SHOAL_INLINE F LoadBF16(const uint16_t* p) {
    return AsF(_mm512_slli_epi32(
        _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16));
  }
  static SHOAL_INLINE F LoadF16(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  // The upper halves of 16 dwords.
  static SHOAL_INLINE void StoreHigh(uint16_t* p, U x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtepi32_epi16(_mm512_srli_epi32(x, 16)));
  }

  // 64 E4M3 codes to 64 bf16, exactly, NaN included: the 7 bits below the sign index two tables of
  // bytes. Bytes 0-7 of each 128-bit lane go to `a`, bytes 8-15 to `b`.
  static SHOAL_INLINE void DecodeE4M3(const std::byte* p, U& a, U& b) {
    const uint8_t* table = kE4M3Table.bytes;
    const U codes = _mm512_loadu_si512(p);
    U low =
        _mm512_permutex2var_epi8(_mm512_loadu_si512(table), codes, _mm512_loadu_si512(table + 64));
    U high = _mm512_permutex2var_epi8(_mm512_loadu_si512(table + 128), codes,
                                      _mm512_loadu_si512(table + 192));
    high = _mm512_ternarylogic_epi32(high, codes, _mm512_set1_epi8(static_cast<char>(0x80)),
                                     0xf8);  // h | (c & s)
    a = _mm512_unpacklo_epi8(low, high);
    b = _mm512_unpackhi_epi8(low, high);
  }

  // 32 columns of two rows as pairs (row0, row1), in an order of columns that StoreUnpaired undoes.
  static SHOAL_INLINE void PairRows(const uint16_t* row0, const uint16_t* row1, U& a, U& b) {
    const U x = _mm512_loadu_si512(row0);
    const U y = _mm512_loadu_si512(row1);
    a = _mm512_unpacklo_epi16(x, y);
    b = _mm512_unpackhi_epi16(x, y);
  }
  static SHOAL_INLINE void PairRow(const uint16_t* row0, U& a, U& b) {
    const U x = _mm512_loadu_si512(row0);
    a = _mm512_unpacklo_epi16(x, _mm512_setzero_si512());
    b = _mm512_unpackhi_epi16(x, _mm512_setzero_si512());
  }
  static SHOAL_INLINE void Unpair(F a, F b, F& x, F& y) {
    const U first = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    const U second =
        _mm512_setr_epi32(8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
    x = _mm512_permutex2var_ps(a, first, b);
    y = _mm512_permutex2var_ps(a, second, b);
  }

  // out[i][j] = in[j][i] of 16 x 16 dwords; rows `in_stride` and `out_stride` dwords apart.
  static SHOAL_INLINE void Transpose(const uint32_t* in, int64_t in_stride, uint32_t* out,
                                     int64_t out_stride) {
    U r[16], t[16];
    SHOAL_UNROLL
    for (int i = 0; i < 16; ++i) r[i] = _mm512_loadu_si512(in + i * in_stride);
    SHOAL_UNROLL
    for (int i = 0; i < 8; ++i) {
      t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
      t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    SHOAL_UNROLL
    for (int i = 0; i < 4; ++i) {
      r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
      r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
      r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
      r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    SHOAL_UNROLL
    for (int i = 0; i < 4; ++i) {
      t[i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0x88);
      t[4 + i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0xdd);
      t[8 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0x88);
      t[12 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0xdd);
    }
    SHOAL_UNROLL
    for (int i = 0; i < 4; ++i) {
      _mm512_storeu_si512(out + i * out_stride, _mm512_shuffle_i32x4(t[i], t[8 + i], 0x88));
      _mm512_storeu_si512(out + (8 + i) * out_stride, _mm512_shuffle_i32x4(t[i], t[8 + i], 0xdd));
      _mm512_storeu_si512(out + (4 + i) * out_stride,
                          _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0x88));
      _mm512_storeu_si512(out + (12 + i) * out_stride,
                          _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0xdd));
    }
  }
};

}  // namespace shoal::cpu
