// SPDX-License-Identifier: Apache-2.0
// Shows that stop strings are found wherever the text is cut into pieces, and that nothing of one
// is ever given out: tables at every split, and random texts over a small alphabet against a search
// in the whole text.
#include <random>
#include <string>
#include <vector>

#include "coordinator/api/stop_matcher.h"
#include "gtest/gtest.h"

namespace shoal {
namespace {

// The specification: the first end of any occurrence, and there the longest; the text before it.
std::pair<std::string, bool> Expected(const std::string& text,
                                      const std::vector<std::string>& stop) {
  for (size_t end = 1; end <= text.size(); ++end) {
    size_t longest = 0;
    for (const std::string& s : stop) {
      if (!s.empty() && s.size() <= end && text.compare(end - s.size(), s.size(), s) == 0) {
        longest = std::max(longest, s.size());
      }
    }
    if (longest > 0) return {text.substr(0, end - longest), true};
  }
  return {text, false};
}

void Check(const std::vector<std::string>& pieces, const std::vector<std::string>& stop) {
  std::string text;
  for (const std::string& piece : pieces) text += piece;
  const auto [want, want_matched] = Expected(text, stop);
  StopMatcher matcher(stop);
  std::string got;
  for (const std::string& piece : pieces) {
    got += matcher.Push(piece);
    // What was given out is part of the answer, whatever comes.
    ASSERT_EQ(want.compare(0, got.size(), got), 0) << "gave out part of a stop string: " << got;
  }
  got += matcher.Flush();
  EXPECT_EQ(got, want) << text;
  EXPECT_EQ(matcher.matched(), want_matched) << text;
}

TEST(StopMatcher, FindsStopsAtEverySplit) {
  struct Case {
    std::string text;
    std::vector<std::string> stop;
  };
  const std::vector<Case> cases = {
      {"To be, or not to be", {"or not"}},
      {"To be, or not to be", {"be"}},
      {"aaaaab", {"aab"}},
      {"ababac", {"abac", "bab"}},
      {"xabcdy", {"bc", "abcd"}},    // the shorter is complete first
      {"xabcy", {"bc", "abc", ""}},  // both at once: the longer
      {"stop", {"stop"}},
      {"no such thing", {"thang", "none"}},
      {"ends like a sto", {"stop"}},
      {"Grüße, 世界! 🎉 ok", {"界!"}},
      {"Grüße, 世界! 🎉 ok", {"🎉", "zzz"}},
      {"Grüße, 世界! 🎊 ok", {"🎉"}},  // shares three of its four bytes
      {"line\n\nline", {"\n\n"}},
      {"text", {}},
  };
  for (const Case& c : cases) {
    for (size_t i = 0; i <= c.text.size(); ++i) {
      for (size_t j = i; j <= c.text.size(); ++j) {
        Check({c.text.substr(0, i), c.text.substr(i, j - i), c.text.substr(j)}, c.stop);
      }
    }
    std::vector<std::string> bytes;
    for (const char ch : c.text) bytes.emplace_back(1, ch);
    Check(bytes, c.stop);
  }
}

TEST(StopMatcher, AgreesWithASearchInTheWholeText) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(::testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  auto word = [&](size_t length) {
    std::string text;
    for (size_t i = 0; i < length; ++i) text += static_cast<char>('a' + random() % 2);
    return text;
  };
  for (int round = 0; round < 3000; ++round) {
    std::vector<std::string> stop;
    for (uint32_t i = random() % 4; i > 0; --i) stop.push_back(word(1 + random() % 7));
    std::vector<std::string> pieces;
    for (uint32_t i = random() % 8; i > 0; --i) pieces.push_back(word(random() % 6));
    Check(pieces, stop);
    if (HasFailure()) return;
  }
}

TEST(StopMatcher, GivesNothingOutAfterAMatch) {
  StopMatcher matcher({"END"});
  EXPECT_EQ(matcher.Push("abcEN"), "abc");
  EXPECT_EQ(matcher.Push("D more"), "");
  EXPECT_TRUE(matcher.matched());
  EXPECT_EQ(matcher.Push("text"), "");
  EXPECT_EQ(matcher.Flush(), "");
}

TEST(StopMatcher, HoldsBackOnlyWhatMayBecomeAStop) {
  StopMatcher matcher({"END"});
  EXPECT_EQ(matcher.Push("E"), "");
  EXPECT_EQ(matcher.Push("EE"), "EE");
  EXPECT_EQ(matcher.Push("x"), "Ex");
}

}  // namespace
}  // namespace shoal
