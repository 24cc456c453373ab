// SPDX-License-Identifier: Apache-2.0
// Shows that the small parts of the tokenizer keep their promises: ill-formed UTF-8 splits where
// the Unicode standard says, the byte alphabet is a bijection, added tokens match leftmost and
// longest, and pre-tokenizer patterns mean under PCRE2 what they mean under Oniguruma, in linear
// time.
#include <gtest/gtest.h>

#include <chrono>
#include <set>

#include "absl/strings/match.h"
#include "engine/text/added_tokens.h"
#include "engine/text/byte_alphabet.h"
#include "engine/text/pre_tokenizer.h"
#include "engine/text/regex_translation.h"
#include "engine/text/utf8.h"

namespace shoal {
namespace {

TEST(Utf8, ReplacesMaximalSubparts) {
  const std::string kBad = "\xEF\xBF\xBD";
  const std::pair<std::string, std::string> cases[] = {
      {"plain", "plain"},
      {"é一🙂", "é一🙂"},
      {"\x80", kBad},                                   // a continuation alone
      {"\xC0\xAF", kBad + kBad},                        // overlong: C0 starts nothing
      {"\xE0\x80\xAF", kBad + kBad + kBad},             // overlong, refused at the second byte
      {"\xED\xA0\x80", kBad + kBad + kBad},             // a surrogate
      {"\xF4\x90\x80\x80", kBad + kBad + kBad + kBad},  // above U+10FFFF
      {"\xF0\x9F\x99", kBad},                           // cut: one maximal subpart
      {"\xF0\x9F\x99"
       "a",
       kBad + "a"},
      {"\xE4\xB8\xF0\x9F\x99\x82", kBad + "🙂"},
      {"a\xFFz", "a" + kBad + "z"},
      {std::string("\0", 1), std::string("\0", 1)},
  };
  for (const auto& [bytes, text] : cases) {
    EXPECT_EQ(ToValidUtf8(bytes), text);
    EXPECT_EQ(IsValidUtf8(bytes), bytes == text);
  }
}

TEST(Utf8, TellsIncompleteFromIllFormed) {
  EXPECT_EQ(NextUtf8("\xE4\xB8").kind, Utf8Step::Kind::kIncomplete);
  EXPECT_EQ(NextUtf8("\xF0").kind, Utf8Step::Kind::kIncomplete);
  EXPECT_EQ(NextUtf8("\xE0\x80").kind, Utf8Step::Kind::kIllFormed);
  EXPECT_EQ(NextUtf8("\xF5").kind, Utf8Step::Kind::kIllFormed);
}

TEST(ByteAlphabet, IsABijection) {
  std::set<std::string> spellings;
  for (int byte = 0; byte < 256; ++byte) {
    const std::string spelling = SpellByte(static_cast<uint8_t>(byte));
    spellings.insert(spelling);
    EXPECT_EQ(BytesOfSpelling(spelling), std::string(1, static_cast<char>(byte)));
  }
  EXPECT_EQ(spellings.size(), 256u);
  EXPECT_EQ(SpellByte(' '), "Ġ");
  EXPECT_EQ(SpellByte('\n'), "Ċ");
  EXPECT_EQ(BytesOfSpelling("a b"), std::nullopt);  // a space is not in the alphabet
  EXPECT_EQ(BytesOfSpelling("<｜User｜>"), std::nullopt);
  EXPECT_EQ(BytesOfSpelling("\xC4"), std::nullopt);  // half a character
}

TEST(AddedTokens, LeftmostThenLongest) {
  AddedTokens added;
  EXPECT_TRUE(added.empty());
  added.Add("<a>", 1);
  added.Add("<a><b>", 2);
  added.Add("b><c", 3);
  EXPECT_FALSE(added.empty());
  const auto find = [&](absl::string_view text, size_t from) {
    const AddedTokens::Match match = added.Find(text, from);
    return std::tuple(match.begin, match.size, match.id);
  };
  EXPECT_EQ(find("x<a>y", 0), std::tuple(1u, 3u, 1));
  EXPECT_EQ(find("<a><b>", 0), std::tuple(0u, 6u, 2));
  EXPECT_EQ(find("<a><b", 0), std::tuple(0u, 3u, 1));  // the longer one is cut
  EXPECT_EQ(find("<a><b><c", 1), std::tuple(4u, 4u, 3));
  EXPECT_EQ(find("<<a>", 0), std::tuple(1u, 3u, 1));
  EXPECT_EQ(find("<a", 0), std::tuple(2u, 0u, -1));
  EXPECT_EQ(find("", 0), std::tuple(0u, 0u, -1));
}

std::vector<std::string> SplitWith(const std::string& pattern, const std::string& text) {
  const auto pre_tokenizer = PreTokenizer::Create({pattern}).value();
  std::vector<std::string> pieces;
  for (const absl::string_view piece : pre_tokenizer->Split(text)) pieces.emplace_back(piece);
  return pieces;
}
using Pieces = std::vector<std::string>;

TEST(Patterns, MeanWhatTheyMeanInOniguruma) {
  // U+180E is no white space, U+0085 is.
  EXPECT_EQ(SplitWith("\\s", "a\u180Eb\u0085c"), (Pieces{"a\u180Eb", "\u0085", "c"}));
  EXPECT_EQ(SplitWith("\\S+", " a\u2003b"), (Pieces{" ", "a", "\u2003", "b"}));
  EXPECT_EQ(SplitWith("[^\\s]+", " a\u3000b"), (Pieces{" ", "a", "\u3000", "b"}));
  // Assigned after Unicode 14: pink heart (symbol), a Kawi letter and digit, a Garay mark, CJK
  // extension I, a Tulu-Tigalari danda.
  EXPECT_EQ(SplitWith("\\p{S}", "a\U0001FA77b"), (Pieces{"a", "\U0001FA77", "b"}));
  EXPECT_EQ(SplitWith("\\p{L}+",
                      "1\U00011F04\U0002EBF0"
                      "2"),
            (Pieces{"1", "\U00011F04\U0002EBF0", "2"}));
  EXPECT_EQ(SplitWith("[\\p{N}]", "a\U00011F50z"), (Pieces{"a", "\U00011F50", "z"}));
  EXPECT_EQ(SplitWith("\\p{M}", "a\U00010D69z"), (Pieces{"a", "\U00010D69", "z"}));
  EXPECT_EQ(SplitWith("\\p{P}", "a\U000113D4z"), (Pieces{"a", "\U000113D4", "z"}));
  // $ is the end of any line.
  EXPECT_EQ(SplitWith("a$", "a\naa"), (Pieces{"a", "\na", "a"}));
  EXPECT_EQ(SplitWith("\\s+$", "x  \n\n y  "), (Pieces{"x", "  \n", "\n y", "  "}));
  EXPECT_EQ(SplitWith("\\s+$", "x  y"), (Pieces{"x  y"}));
  EXPECT_EQ(SplitWith("(?i:'s|'LL)", "it'S 'll"), (Pieces{"it", "'S", " ", "'ll"}));
  EXPECT_EQ(SplitWith("\\s+(?!\\S)|\\s+", "a   b"), (Pieces{"a", "  ", " ", "b"}));
  EXPECT_EQ(SplitWith("\\p{N}{1,3}", "12345"), (Pieces{"123", "45"}));
  EXPECT_EQ(SplitWith("[\\]\\\\a-c]+", "x]\\bz"), (Pieces{"x", "]\\b", "z"}));
  EXPECT_TRUE(SplitWith("a", "").empty());
}

TEST(Patterns, LookAheadEndsAtThePiece) {
  const auto pre_tokenizer = PreTokenizer::Create({"b", "\\s+(?!\\S)"}).value();
  const std::vector<absl::string_view> pieces = pre_tokenizer->Split("a  b");
  EXPECT_EQ(pieces, (std::vector<absl::string_view>{"a", "  ", "b"}));
}

TEST(Patterns, UnknownSyntaxIsNamed) {
  const std::pair<const char*, const char*> cases[] = {{"\\d+", "\\d"},
                                                       {"\\p{Han}", "\\p{Han}"},
                                                       {"\\pL", "\\p without"},
                                                       {"a.b", "."},
                                                       {"^a", "^"},
                                                       {"a++", "quantifier"},
                                                       {"a+?", "quantifier"},
                                                       {"a{2}{3}", "quantifier"},
                                                       {"a{,3}", "repeat count"},
                                                       {"(a)", "group"},
                                                       {"(?<=a)b", "group"},
                                                       {"[a[b]]", "class within a class"},
                                                       {"[a&&b]", "&&"},
                                                       {"[a", "unclosed"},
                                                       {"[]a]", "empty class"},
                                                       {"[\\S]", "\\S within"},
                                                       {"a\\", "backslash"},
                                                       {"\\é", "escaped"},
                                                       {"|+", "quantifier"},
                                                       {"*a", "quantifier"}};
  for (const auto& [pattern, part] : cases) {
    const absl::Status status = ToPcre2Pattern(pattern).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << pattern;
    EXPECT_TRUE(absl::StrContains(status.message(), part)) << status;
  }
}

TEST(Patterns, LongRunsTakeLinearTime) {
  // Each of these makes a backtracking engine try every start within the run; at a million bytes
  // a quadratic step would take hours, so the limit is loose.
  const auto begin = std::chrono::steady_clock::now();
  const size_t size = 1 << 20;
  EXPECT_EQ(SplitWith("\\s+$", std::string(size, ' ') + "1").size(), 1u);
  EXPECT_EQ(SplitWith("\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+", std::string(size, ' ') + "1").size(), 3u);
  EXPECT_EQ(SplitWith("[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+", std::string(size, 'a')).size(),
            1u);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20));
}

}  // namespace
}  // namespace shoal
