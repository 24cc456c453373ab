// SPDX-License-Identifier: Apache-2.0
// Two spellings that GCC and Clang do not share.
#pragma once

#define SHOAL_INLINE inline __attribute__((always_inline))
#if defined(__clang__)
#define SHOAL_UNROLL _Pragma("clang loop unroll(full)")
#else
#define SHOAL_UNROLL _Pragma("GCC unroll 32")
#endif
