// SPDX-License-Identifier: Apache-2.0
// E4M3 ("fn") to bf16, exactly: the 128 codes without their sign, low bytes first, then high bytes.
#pragma once

#include <cstdint>

namespace shoal::cpu {

struct E4M3Table {
  alignas(64) uint8_t bytes[256];

  constexpr E4M3Table() : bytes() {
    for (int code = 0; code < 128; ++code) {
      int exponent = code >> 3;
      int mantissa = code & 7;
      uint16_t bits = 0;
      if (code == 127) {
        bits = 0x7fc0;
      } else if (exponent > 0) {
        bits = static_cast<uint16_t>((exponent - 7 + 127) << 7 | mantissa << 4);
      } else if (mantissa > 0) {  // mantissa * 2^-9
        exponent = -9 + 2;
        while (mantissa < 4) {
          mantissa *= 2;
          --exponent;
        }
        bits = static_cast<uint16_t>((exponent + 127) << 7 | (mantissa & 3) << 5);
      }
      bytes[code] = static_cast<uint8_t>(bits & 0xff);
      bytes[128 + code] = static_cast<uint8_t>(bits >> 8);
    }
  }
};
inline constexpr E4M3Table kE4M3Table;

}  // namespace shoal::cpu
