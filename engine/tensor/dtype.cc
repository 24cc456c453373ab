// SPDX-License-Identifier: Apache-2.0
// Scalar conversions, on the bits.
#include "engine/tensor/dtype.h"

#include <bit>
#include <cmath>
#include <limits>

namespace shoal {

absl::string_view DTypeName(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "F32";
    case DType::kF16:
      return "F16";
    case DType::kBF16:
      return "BF16";
    case DType::kF8E4M3:
      return "F8_E4M3";
    case DType::kF8E8M0:
      return "F8_E8M0";
    case DType::kI8:
      return "I8";
    case DType::kI32:
      return "I32";
    case DType::kI64:
      return "I64";
  }
  return "?";
}

float BF16ToFloat(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

uint16_t FloatToBF16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if (std::isnan(value)) return static_cast<uint16_t>((bits >> 16) | 0x40);
  // Adding half a step, less one when the kept part is even, carries exactly when rounding goes up.
  return static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

float F16ToFloat(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
  const int exponent = (bits >> 10) & 0x1F;
  const uint32_t mantissa = bits & 0x3FF;
  if (exponent == 0x1F) return std::bit_cast<float>(sign | 0x7F800000 | (mantissa << 13));
  if (exponent != 0) {
    return std::bit_cast<float>(sign | (static_cast<uint32_t>(exponent + 112) << 23) |
                                (mantissa << 13));
  }
  const float magnitude = std::ldexp(static_cast<float>(mantissa), -24);  // subnormal: exact
  return sign ? -magnitude : magnitude;
}

float E4M3ToFloat(uint8_t bits) {
  const int exponent = (bits >> 3) & 0xF;
  const int mantissa = bits & 7;
  if ((bits & 0x7F) == 0x7F) return std::numeric_limits<float>::quiet_NaN();
  const float magnitude = exponent == 0
                              ? std::ldexp(static_cast<float>(mantissa), -9)
                              : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  return bits & 0x80 ? -magnitude : magnitude;
}

uint8_t FloatToE4M3(float value) {
  const uint8_t sign = std::signbit(value) ? 0x80 : 0;
  if (std::isnan(value)) return sign | 0x7F;
  const float magnitude = std::fabs(value);
  if (magnitude >= 448.0f) return sign | 0x7E;
  // The step between neighbours: 2^-9 among subnormals (below 2^-6), else 2^(exponent - 3).
  const int exponent = magnitude < 0x1p-6f ? -6 : std::ilogb(magnitude);
  // Division by a power of two is exact; the addition rounds to nearest even, as float does.
  const float steps = std::ldexp(magnitude, 3 - exponent);
  const int rounded = static_cast<int>((steps + 0x1p23f) - 0x1p23f);
  // In units of the step a normal number has 8..15 steps; 16 carries into the exponent by itself,
  // and fewer than 8 (exponent -6) is a subnormal code.
  const int code = ((exponent + 6) << 3) + rounded;
  return sign | static_cast<uint8_t>(code > 0x7E ? 0x7E : code);
}

float E8M0ToFloat(uint8_t bits) {
  if (bits == 0xFF) return std::numeric_limits<float>::quiet_NaN();
  return std::ldexp(1.0f, bits - 127);
}

}  // namespace shoal
