// SPDX-License-Identifier: Apache-2.0
#include "engine/text/utf8.h"

#include <cstdint>

#include "absl/strings/str_cat.h"

namespace shoal {

namespace {

// The second byte's range depends on the first (Unicode, table 3-7): this is what makes overlong
// forms, surrogates and values above U+10FFFF ill-formed already at their second byte.
struct LeadByte {
  size_t length;  // 0: cannot start a code point
  uint8_t second_min;
  uint8_t second_max;
};

LeadByte ClassifyLead(uint8_t lead) {
  if (lead < 0x80) return {1, 0, 0};
  if (lead < 0xC2) return {0, 0, 0};
  if (lead < 0xE0) return {2, 0x80, 0xBF};
  if (lead == 0xE0) return {3, 0xA0, 0xBF};
  if (lead == 0xED) return {3, 0x80, 0x9F};
  if (lead < 0xF0) return {3, 0x80, 0xBF};
  if (lead == 0xF0) return {4, 0x90, 0xBF};
  if (lead < 0xF4) return {4, 0x80, 0xBF};
  if (lead == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

constexpr absl::string_view kReplacement = "\xEF\xBF\xBD";

}  // namespace

Utf8Step NextUtf8(absl::string_view bytes) {
  const LeadByte lead = ClassifyLead(static_cast<uint8_t>(bytes[0]));
  if (lead.length == 0) return {Utf8Step::Kind::kIllFormed, 1};
  for (size_t i = 1; i < lead.length; ++i) {
    if (i == bytes.size()) return {Utf8Step::Kind::kIncomplete, i};
    const uint8_t byte = static_cast<uint8_t>(bytes[i]);
    const uint8_t min = i == 1 ? lead.second_min : 0x80;
    const uint8_t max = i == 1 ? lead.second_max : 0xBF;
    if (byte < min || byte > max) return {Utf8Step::Kind::kIllFormed, i};
  }
  return {Utf8Step::Kind::kCodePoint, lead.length};
}

bool IsValidUtf8(absl::string_view bytes) {
  while (!bytes.empty()) {
    const Utf8Step step = NextUtf8(bytes);
    if (step.kind != Utf8Step::Kind::kCodePoint) return false;
    bytes.remove_prefix(step.size);
  }
  return true;
}

std::string ToValidUtf8(absl::string_view bytes) {
  std::string out;
  out.reserve(bytes.size());
  while (!bytes.empty()) {
    const Utf8Step step = NextUtf8(bytes);
    const bool valid = step.kind == Utf8Step::Kind::kCodePoint;
    absl::StrAppend(&out, valid ? bytes.substr(0, step.size) : kReplacement);
    bytes.remove_prefix(step.size);
  }
  return out;
}

}  // namespace shoal
