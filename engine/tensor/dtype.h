// SPDX-License-Identifier: Apache-2.0
// Scalar formats of checkpoints, caches and activations.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"

namespace shoal {

enum class DType : uint8_t {
  kF32,
  kF16,
  kBF16,
  kF8E4M3,  // "fn": no infinities, 0x7F and 0xFF are NaN, largest 448
  kF8E8M0,  // a power of two: 2^(e-127)
  kI8,      // also packed FP4: two E2M1 codes, low nibble first
  kI32,
  kI64,
};

constexpr size_t DTypeBytes(DType dtype) {
  switch (dtype) {
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kF16:
    case DType::kBF16:
      return 2;
    case DType::kI64:
      return 8;
    case DType::kF8E4M3:
    case DType::kF8E8M0:
    case DType::kI8:
      return 1;
  }
  return 0;
}

// The name in a safetensors header: "F32", "BF16", "F8_E4M3", ...
absl::string_view DTypeName(DType dtype);

// Scalar conversions: round to nearest even; NaN stays NaN.
float BF16ToFloat(uint16_t bits);
uint16_t FloatToBF16(float value);
float F16ToFloat(uint16_t bits);
float E4M3ToFloat(uint8_t bits);
uint8_t FloatToE4M3(float value);  // saturates at 448
float E8M0ToFloat(uint8_t bits);

}  // namespace shoal
