// SPDX-License-Identifier: Apache-2.0
#include "engine/text/regex_translation.h"

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/types/span.h"
#include "engine/base/status_macros.h"

namespace shoal {

namespace {

struct CodePointRange {
  uint32_t first;
  uint32_t last;
};

// White_Space of Unicode (PropList.txt), unchanged since 6.3.
constexpr CodePointRange kWhiteSpace[] = {
    {0x09, 0x0D},     {0x20, 0x20},     {0x85, 0x85},     {0xA0, 0xA0},     {0x1680, 0x1680},
    {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F}, {0x3000, 0x3000}};

// What Unicode 15.0, 15.1 and 16.0 added to the general categories
// (DerivedGeneralCategory.txt, 14.0 to 16.0; nothing was taken away). A PCRE2 that already knows
// them loses nothing.
constexpr CodePointRange kL[] = {
    {0x1C89, 0x1C8A},   {0xA7CB, 0xA7CD},   {0xA7DA, 0xA7DC},   {0x105C0, 0x105F3},
    {0x10D4A, 0x10D65}, {0x10D6F, 0x10D85}, {0x10EC2, 0x10EC4}, {0x1123F, 0x11240},
    {0x11380, 0x11389}, {0x1138B, 0x1138B}, {0x1138E, 0x1138E}, {0x11390, 0x113B5},
    {0x113B7, 0x113B7}, {0x113D1, 0x113D1}, {0x113D3, 0x113D3}, {0x11BC0, 0x11BE0},
    {0x11F02, 0x11F02}, {0x11F04, 0x11F10}, {0x11F12, 0x11F33}, {0x1342F, 0x1342F},
    {0x13441, 0x13446}, {0x13460, 0x143FA}, {0x16100, 0x1611D}, {0x16D40, 0x16D6C},
    {0x18CFF, 0x18CFF}, {0x1B132, 0x1B132}, {0x1B155, 0x1B155}, {0x1DF25, 0x1DF2A},
    {0x1E030, 0x1E06D}, {0x1E4D0, 0x1E4EB}, {0x1E5D0, 0x1E5ED}, {0x1E5F0, 0x1E5F0},
    {0x2B739, 0x2B739}, {0x2EBF0, 0x2EE5D}, {0x31350, 0x323AF}};
constexpr CodePointRange kM[] = {
    {0x0897, 0x0897},   {0x0CF3, 0x0CF3},   {0x0ECE, 0x0ECE},   {0x10D69, 0x10D6D},
    {0x10EFC, 0x10EFF}, {0x11241, 0x11241}, {0x113B8, 0x113C0}, {0x113C2, 0x113C2},
    {0x113C5, 0x113C5}, {0x113C7, 0x113CA}, {0x113CC, 0x113D0}, {0x113D2, 0x113D2},
    {0x113E1, 0x113E2}, {0x11F00, 0x11F01}, {0x11F03, 0x11F03}, {0x11F34, 0x11F3A},
    {0x11F3E, 0x11F42}, {0x11F5A, 0x11F5A}, {0x13440, 0x13440}, {0x13447, 0x13455},
    {0x1611E, 0x1612F}, {0x1E08F, 0x1E08F}, {0x1E4EC, 0x1E4EF}, {0x1E5EE, 0x1E5EF}};
constexpr CodePointRange kN[] = {{0x10D40, 0x10D49}, {0x116D0, 0x116E3}, {0x11BF0, 0x11BF9},
                                 {0x11F50, 0x11F59}, {0x16130, 0x16139}, {0x16D70, 0x16D79},
                                 {0x1CCF0, 0x1CCF9}, {0x1D2C0, 0x1D2D3}, {0x1E4F0, 0x1E4F9},
                                 {0x1E5F1, 0x1E5FA}};
constexpr CodePointRange kP[] = {{0x1B4E, 0x1B4F},   {0x1B7F, 0x1B7F},   {0x10D6E, 0x10D6E},
                                 {0x113D4, 0x113D5}, {0x113D7, 0x113D8}, {0x11B00, 0x11B09},
                                 {0x11BE1, 0x11BE1}, {0x11F43, 0x11F4F}, {0x16D6D, 0x16D6F},
                                 {0x1E5FF, 0x1E5FF}};
constexpr CodePointRange kS[] = {
    {0x2427, 0x2429},   {0x2FFC, 0x2FFF},   {0x31E4, 0x31E5},   {0x31EF, 0x31EF},
    {0x10D8E, 0x10D8F}, {0x1CC00, 0x1CCEF}, {0x1CD00, 0x1CEB3}, {0x1F6DC, 0x1F6DC},
    {0x1F774, 0x1F776}, {0x1F77B, 0x1F77F}, {0x1F7D9, 0x1F7D9}, {0x1F8B2, 0x1F8BB},
    {0x1F8C0, 0x1F8C1}, {0x1FA75, 0x1FA77}, {0x1FA87, 0x1FA89}, {0x1FA8F, 0x1FA8F},
    {0x1FAAD, 0x1FAAF}, {0x1FABB, 0x1FABF}, {0x1FAC6, 0x1FAC6}, {0x1FACE, 0x1FACF},
    {0x1FADA, 0x1FADC}, {0x1FADF, 0x1FADF}, {0x1FAE8, 0x1FAE9}, {0x1FAF7, 0x1FAF8},
    {0x1FBCB, 0x1FBEF}};

std::string ClassBody(absl::Span<const CodePointRange> ranges) {
  std::string body;
  for (const CodePointRange& range : ranges) {
    absl::StrAppendFormat(&body, "\\x{%x}", range.first);
    if (range.last != range.first) absl::StrAppendFormat(&body, "-\\x{%x}", range.last);
  }
  return body;
}

// The inside of a class equal to \p{property}; empty for one we do not know.
std::string PropertyBody(absl::string_view property) {
  if (property == "L") return absl::StrCat("\\p{L}", ClassBody(kL));
  if (property == "M") return absl::StrCat("\\p{M}", ClassBody(kM));
  if (property == "N") return absl::StrCat("\\p{N}", ClassBody(kN));
  if (property == "P") return absl::StrCat("\\p{P}", ClassBody(kP));
  if (property == "S") return absl::StrCat("\\p{S}", ClassBody(kS));
  return "";
}

class Translator {
 public:
  explicit Translator(absl::string_view pattern) : pattern_(pattern) {}

  absl::StatusOr<std::string> Translate() {
    // Equal by the leftmost rule: where a run of spaces can match from its middle it can match from
    // its start.
    if (pattern_ == "\\s+$") {
      const std::string space = ClassBody(kWhiteSpace);
      return absl::StrCat("(?<![", space, "])[", space, "]+$");
    }
    while (at_ < pattern_.size()) SHOAL_RETURN_IF_ERROR(Step());
    if (in_class_) return Unknown("an unclosed [");
    return out_;
  }

 private:
  absl::Status Unknown(absl::string_view what) const {
    return absl::UnimplementedError(absl::StrCat("regular expression \"", pattern_, "\": ", what,
                                                 " at byte ", at_, " is not supported"));
  }

  absl::Status Step() {
    const char c = pattern_[at_];
    if (c == '\\') return Escape();
    return in_class_ ? ClassCharacter(c) : Character(c);
  }

  absl::Status Escape() {
    if (at_ + 1 == pattern_.size()) return Unknown("a final backslash");
    const char c = pattern_[at_ + 1];
    if (c == 'p') return Property();
    if (c == 's' || c == 'S') return Space(c == 'S');
    const bool letter_or_digit = absl::ascii_isalnum(static_cast<unsigned char>(c));
    if (letter_or_digit && c != 'r' && c != 'n' && c != 't')
      return Unknown(absl::StrCat("\\", std::string(1, c)));
    if (static_cast<unsigned char>(c) >= 0x80) return Unknown("an escaped non-ASCII character");
    Take(2);
    Quantifiable();
    return absl::OkStatus();
  }

  absl::Status Property() {
    const size_t close = pattern_.find('}', at_);
    if (at_ + 2 >= pattern_.size() || pattern_[at_ + 2] != '{' ||
        close == absl::string_view::npos) {
      return Unknown("\\p without {...}");
    }
    const std::string body = PropertyBody(pattern_.substr(at_ + 3, close - at_ - 3));
    if (body.empty()) return Unknown(pattern_.substr(at_, close + 1 - at_));
    Emit(in_class_ ? body : absl::StrCat("[", body, "]"));
    at_ = close + 1;
    Quantifiable();
    return absl::OkStatus();
  }

  absl::Status Space(bool negated) {
    if (negated && in_class_) return Unknown("\\S within a class");
    const std::string body = ClassBody(kWhiteSpace);
    Emit(in_class_ ? body : absl::StrCat(negated ? "[^" : "[", body, "]"));
    at_ += 2;
    Quantifiable();
    return absl::OkStatus();
  }

  // Within a class Oniguruma gives meaning to [ (a nested class) and && (intersection); PCRE2 does
  // not.
  absl::Status ClassCharacter(char c) {
    if (c == '[') return Unknown("a class within a class");
    if (c == '&' && pattern_.substr(at_, 2) == "&&") return Unknown("&& within a class");
    if (c == ']') {
      if (at_ == class_begin_) return Unknown("an empty class");
      in_class_ = false;
      Quantifiable();
    }
    Take(1);
    return absl::OkStatus();
  }

  absl::Status Character(char c) {
    switch (c) {
      case '[':
        in_class_ = true;
        Take(pattern_.substr(at_, 2) == "[^" ? 2 : 1);
        class_begin_ = at_;
        return absl::OkStatus();
      case '(':
        return Group();
      case '*':
      case '+':
      case '?':
        // A second one would be lazy, possessive or nested, which the two engines read differently.
        if (!quantifiable_) return Unknown("a quantifier of a quantifier");
        quantifiable_ = false;
        Take(1);
        return absl::OkStatus();
      case '{':
        return Repeat();
      case '.':
      case '^':
        return Unknown(std::string(1, c));
      case '|':
      case '$':
        quantifiable_ = false;
        Take(1);
        return absl::OkStatus();
      default:
        Quantifiable();
        Take(1);
        return absl::OkStatus();
    }
  }

  absl::Status Group() {
    for (const absl::string_view opening : {"(?:", "(?i:", "(?=", "(?!"}) {
      if (pattern_.substr(at_, opening.size()) == opening) {
        quantifiable_ = false;
        Take(opening.size());
        return absl::OkStatus();
      }
    }
    return Unknown("this group");
  }

  absl::Status Repeat() {
    if (!quantifiable_) return Unknown("a quantifier of a quantifier");
    const size_t close = pattern_.find('}', at_);
    const absl::string_view body =
        close == absl::string_view::npos ? "" : pattern_.substr(at_ + 1, close - at_ - 1);
    if (body.empty() || body[0] == ',' || body.find_first_not_of("0123456789,") != body.npos) {
      return Unknown("{ that is no repeat count");
    }
    quantifiable_ = false;
    Take(body.size() + 2);
    return absl::OkStatus();
  }

  void Take(size_t bytes) {
    Emit(pattern_.substr(at_, bytes));
    at_ += bytes;
  }
  void Emit(absl::string_view text) { absl::StrAppend(&out_, text); }
  void Quantifiable() { quantifiable_ = true; }

  absl::string_view pattern_;
  size_t at_ = 0;
  std::string out_;
  bool in_class_ = false;
  size_t class_begin_ = 0;
  bool quantifiable_ = false;  // whether what came last may be followed by a quantifier
};

}  // namespace

absl::StatusOr<std::string> ToPcre2Pattern(absl::string_view oniguruma) {
  return Translator(oniguruma).Translate();
}

}  // namespace shoal
