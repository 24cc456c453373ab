// SPDX-License-Identifier: Apache-2.0
// GPT-2's spelling of bytes as printable characters, in which a byte-level BPE vocabulary is
// written: 188 bytes stand for themselves (as Latin-1), the other 68 are U+0100, U+0101, ... in
// order. A space is "Ġ".
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace shoal {

// The character that spells `byte`, as UTF-8.
std::string SpellByte(uint8_t byte);

// The bytes that `spelling` spells; nullopt if it holds a character outside the alphabet or is not
// UTF-8.
std::optional<std::string> BytesOfSpelling(absl::string_view spelling);

}  // namespace shoal
