// SPDX-License-Identifier: Apache-2.0
// Shows that a choice's text, thoughts and log-probabilities come out the same whether its tokens
// arrive one by one or at once, and that they belong together: every shown token lies within the
// shown text, stop strings do not show, and an end adds nothing.
#include <random>
#include <string>
#include <vector>

#include "coordinator/api/choice_stream.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/api_test_model.h"

namespace shoal {
namespace {

using testing::TinyTokenizer;

constexpr int32_t kEos = 1;
constexpr int32_t kThinkEnd = 2032;

std::vector<int32_t> Encode(const std::string& text) {
  return TinyTokenizer().Encode(text, Tokenizer::Matching::kAddedTokens);
}

// Tokens of bytes only: every code point is split.
std::vector<int32_t> Bytes(const std::string& text) {
  std::vector<int32_t> ids;
  for (const char c : text) {
    for (int32_t id = 3; id < 259; ++id) {
      if (TinyTokenizer().TokenBytes(id) == std::string(1, c)) ids.push_back(id);
    }
  }
  return ids;
}

ChoiceDelta Generate(const ApiRequest& request, const std::vector<int32_t>& tokens,
                     FinishReason finish, size_t piece, ChoiceStream& stream) {
  ChoiceDelta all;
  for (size_t i = 0; i < tokens.size() || i == 0; i += piece) {
    const size_t end = std::min(tokens.size(), i + piece);
    std::vector<TokenLogprobs> logprobs;
    for (size_t j = i; j < end && request.sampling.top_logprobs >= 0; ++j) {
      logprobs.push_back({-static_cast<float>(j), {}});
    }
    all.Append(stream.Push(absl::MakeConstSpan(tokens).subspan(i, end - i), logprobs,
                           end == tokens.size() ? finish : FinishReason::kNone));
  }
  return all;
}

ChoiceDelta Generate(const ApiRequest& request, const std::vector<int32_t>& tokens,
                     FinishReason finish, size_t piece = 1) {
  ChoiceStream stream(TinyTokenizer(), request);
  return Generate(request, tokens, finish, piece, stream);
}

ApiRequest WithLogprobs() {
  ApiRequest request;
  request.sampling.top_logprobs = 0;
  request.sampling.end_token_ids = {kEos};
  return request;
}

// The core tells of an end token by an emission without tokens.
TEST(ChoiceStream, EndsWithoutAnotherToken) {
  const ApiRequest request = WithLogprobs();
  const std::vector<int32_t> tokens = Encode("To be, or not to be");
  ChoiceStream stream(TinyTokenizer(), request);
  ChoiceDelta all = Generate(request, tokens, FinishReason::kNone, 3, stream);
  EXPECT_FALSE(stream.finished());
  all.Append(stream.Push({}, {}, FinishReason::kStop));
  EXPECT_TRUE(stream.finished());
  EXPECT_EQ(all.text, "To be, or not to be");
  EXPECT_EQ(all.tokens.size(), tokens.size());
  EXPECT_EQ(all.finish, FinishReason::kStop);
  EXPECT_EQ(stream.completion_tokens(), static_cast<int64_t>(tokens.size()));
  EXPECT_FALSE(stream.stopped_by_text());
}

TEST(ChoiceStream, CutsAtStopStrings) {
  ApiRequest request = WithLogprobs();
  request.stop = {"not to"};
  ChoiceStream stream(TinyTokenizer(), request);
  const ChoiceDelta all =
      Generate(request, Encode("To be, or not to be: that"), FinishReason::kLength, 1, stream);
  EXPECT_EQ(all.text, "To be, or ");
  EXPECT_EQ(all.finish, FinishReason::kStop);
  EXPECT_TRUE(stream.finished());
  EXPECT_TRUE(stream.stopped_by_text());
  EXPECT_LT(stream.completion_tokens(),
            static_cast<int64_t>(Encode("To be, or not to be: that").size()));
  EXPECT_TRUE(stream.Push(Encode("more"), {}, FinishReason::kStop).empty());
}

TEST(ChoiceStream, IgnoresStopStringsBeforeMinTokens) {
  ApiRequest request;
  request.stop = {"a"};
  request.sampling.min_tokens = 3;
  EXPECT_EQ(Generate(request, Bytes("aabbabb"), FinishReason::kLength).text, "aabb");
}

TEST(ChoiceStream, NeverShowsHalfACodePoint) {
  const ApiRequest request = WithLogprobs();
  const std::string text = "Grüße 世界 🎉";
  ChoiceStream stream(TinyTokenizer(), request);
  std::string shown;
  for (const int32_t id : Bytes(text)) {
    shown += stream.Push({id}, {TokenLogprobs{}}, FinishReason::kNone).text;
    EXPECT_EQ(text.compare(0, shown.size(), shown), 0);
  }
  shown += stream.Push({}, {}, FinishReason::kLength).text;
  EXPECT_EQ(shown, text);
  // An answer cut inside a code point ends in a replacement character.
  EXPECT_EQ(Generate(request, Bytes("a\xF0\x9F"), FinishReason::kLength).text, "a\xEF\xBF\xBD");
}

TEST(ChoiceStream, SplitsThoughts) {
  ApiRequest request;
  request.reasons = true;
  request.starts_in_reasoning = true;
  std::vector<int32_t> tokens = Encode("What is he?");
  tokens.push_back(kThinkEnd);
  for (const int32_t id : Encode("A man.")) tokens.push_back(id);
  for (const size_t piece : {size_t{1}, size_t{2}, tokens.size()}) {
    const ChoiceDelta all = Generate(request, tokens, FinishReason::kStop, piece);
    EXPECT_EQ(all.reasoning, "What is he?");
    EXPECT_EQ(all.text, "A man.");
    EXPECT_TRUE(all.has_reasoning);
  }
  request.starts_in_reasoning = false;
  const ChoiceDelta plain = Generate(request, Encode("A man."), FinishReason::kStop);
  EXPECT_EQ(plain.text, "A man.");
  EXPECT_FALSE(plain.has_reasoning);
}

TEST(ChoiceStream, EchoesThePrompt) {
  ApiRequest request = WithLogprobs();
  request.echo = true;
  ApiPrompt prompt;
  prompt.ids = Encode("Grüße, ");
  prompt.ids.insert(prompt.ids.begin(), 0);
  prompt.bos_prepended = true;
  std::vector<TokenLogprobs> logprobs(prompt.ids.size() - 1, TokenLogprobs{-2.0f, {}});
  ChoiceStream stream(TinyTokenizer(), request);
  ChoiceDelta all = stream.Echo(prompt, logprobs);
  EXPECT_EQ(all.text, "Grüße, ");
  ASSERT_EQ(all.tokens.size(), prompt.ids.size());
  EXPECT_FALSE(all.tokens[0].logprobs.has_value());
  EXPECT_TRUE(all.tokens[1].logprobs.has_value());
  EXPECT_EQ(all.tokens[0].text_offset, 0);
  EXPECT_EQ(all.tokens[1].text_offset, 0);
  all.Append(stream.Push(Encode("welt"), {TokenLogprobs{}}, FinishReason::kLength));
  EXPECT_EQ(all.text, "Grüße, welt");
  EXPECT_EQ(all.tokens[prompt.ids.size()].text_offset, 7);  // code points, not bytes
}

// Random texts, stop strings and pieces: the whole at once is the reference.
TEST(ChoiceStream, DoesNotDependOnHowTokensArrive) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(::testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const std::vector<std::string> words = {"be", " or", " not", "ü",        "世",      "🎉",
                                          "\n", "x",   "<",    "</think>", "\xF0\x9F"};
  for (int round = 0; round < 500; ++round) {
    ApiRequest request = WithLogprobs();
    request.reasons = random() % 2 == 0;
    request.starts_in_reasoning = random() % 2 == 0;
    request.sampling.min_tokens = static_cast<int32_t>(random() % 4);
    for (uint32_t i = random() % 3; i > 0; --i) {
      request.stop.push_back(words[random() % 9] + words[random() % 9]);
    }
    std::string text;
    for (uint32_t i = random() % 30; i > 0; --i) text += words[random() % words.size()];
    const std::vector<int32_t> tokens = random() % 2 == 0 ? Encode(text) : Bytes(text);
    const FinishReason finish = random() % 2 == 0 ? FinishReason::kStop : FinishReason::kLength;
    const ChoiceDelta whole = Generate(request, tokens, finish, tokens.size() + 1);
    for (const size_t piece : {size_t{1}, size_t{2}, size_t{5}}) {
      const ChoiceDelta parts = Generate(request, tokens, finish, piece);
      ASSERT_EQ(parts.text, whole.text);
      ASSERT_EQ(parts.reasoning, whole.reasoning);
      ASSERT_EQ(parts.finish, whole.finish);
      ASSERT_EQ(parts.tokens.size(), whole.tokens.size());
      for (size_t i = 0; i < parts.tokens.size(); ++i) {
        ASSERT_EQ(parts.tokens[i].token, tokens[i]);
        ASSERT_EQ(parts.tokens[i].text_offset, whole.tokens[i].text_offset);
        ASSERT_EQ(parts.tokens[i].logprobs->chosen, -static_cast<float>(i));
      }
    }
  }
}

}  // namespace
}  // namespace shoal
