// SPDX-License-Identifier: Apache-2.0
// UTF-8 with the Unicode standard's treatment of ill-formed bytes (section 3.9, "maximal subparts";
// the same as Rust's from_utf8_lossy, so our deltas equal the reference tokenizer's decoding).
#pragma once

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"

namespace shoal {

// One step through a string: the code point at its front, or a maximal ill-formed subpart.
struct Utf8Step {
  enum class Kind { kCodePoint, kIllFormed, kIncomplete };
  Kind kind;    // kIncomplete: the bytes end inside a code point that further bytes could complete
  size_t size;  // bytes of this step, at least 1
};

// Requires !bytes.empty().
Utf8Step NextUtf8(absl::string_view bytes);

bool IsValidUtf8(absl::string_view bytes);

// `bytes` with each maximal ill-formed subpart (an incomplete end included) replaced by U+FFFD.
std::string ToValidUtf8(absl::string_view bytes);

}  // namespace shoal
