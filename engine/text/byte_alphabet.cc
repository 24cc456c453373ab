// SPDX-License-Identifier: Apache-2.0
#include "engine/text/byte_alphabet.h"

#include <array>

namespace shoal {

namespace {

constexpr int kAlphabetEnd = 256 + 68;

constexpr bool StandsForItself(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

struct Alphabet {
  std::array<uint16_t, 256> code_point_of_byte{};
  std::array<int16_t, kAlphabetEnd> byte_of_code_point{};  // -1: not in the alphabet
};

constexpr Alphabet MakeAlphabet() {
  Alphabet alphabet;
  for (int16_t& byte : alphabet.byte_of_code_point) byte = -1;
  int next_shifted = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const int code_point = StandsForItself(byte) ? byte : next_shifted++;
    alphabet.code_point_of_byte[byte] = static_cast<uint16_t>(code_point);
    alphabet.byte_of_code_point[code_point] = static_cast<int16_t>(byte);
  }
  return alphabet;
}

constexpr Alphabet kAlphabet = MakeAlphabet();

}  // namespace

std::string SpellByte(uint8_t byte) {
  const uint16_t code_point = kAlphabet.code_point_of_byte[byte];
  if (code_point < 0x80) return std::string(1, static_cast<char>(code_point));
  return {static_cast<char>(0xC0 | (code_point >> 6)), static_cast<char>(0x80 | (code_point & 63))};
}

std::optional<std::string> BytesOfSpelling(absl::string_view spelling) {
  std::string bytes;
  bytes.reserve(spelling.size());
  for (size_t i = 0; i < spelling.size(); ++i) {
    int code_point = static_cast<uint8_t>(spelling[i]);
    if (code_point >= 0x80) {
      // The alphabet ends below U+0800: only two-byte forms can belong to it.
      if (code_point < 0xC2 || code_point > 0xDF || i + 1 == spelling.size()) return std::nullopt;
      const int next = static_cast<uint8_t>(spelling[++i]);
      if ((next & 0xC0) != 0x80) return std::nullopt;
      code_point = (code_point & 0x1F) << 6 | (next & 0x3F);
    }
    if (code_point >= kAlphabetEnd) return std::nullopt;
    const int16_t byte = kAlphabet.byte_of_code_point[code_point];
    if (byte < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(byte));
  }
  return bytes;
}

}  // namespace shoal
