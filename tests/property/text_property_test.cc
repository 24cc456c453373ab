// SPDX-License-Identifier: Apache-2.0
// Shows, for random texts, bytes, ids and conversations:
//   - encoding and decoding a text gives it back, and any bytes give their valid UTF-8;
//   - byte-pair merging equals the definition (merge the lowest rank, leftmost, until none is
//   left);
//   - a stream decoder fed token by token never emits invalid UTF-8 and equals the whole decode;
//   - the reasoning splitter gives the same for every way of cutting the output;
//   - nothing a client writes in a message becomes a special token, so the sequence of turns is the
//     template's alone;
//   - many threads may use one tokenizer.
// Each test draws from a seed that it prints on failure; SHOAL_SEED=n runs that one alone.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <functional>
#include <map>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "engine/text/bpe.h"
#include "engine/text/chat_template.h"
#include "engine/text/reasoning_splitter.h"
#include "engine/text/stream_decoder.h"
#include "engine/text/tokenizer.h"
#include "engine/text/utf8.h"

namespace shoal {
namespace {

using Ids = std::vector<int32_t>;
using Matching = Tokenizer::Matching;

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  // From 0 to n-1.
  int Below(int n) { return std::uniform_int_distribution<int>(0, n - 1)(engine_); }
  template <typename T, size_t N>
  const T& Of(const T (&list)[N]) {
    return list[Below(N)];
  }

  std::string Bytes() {
    std::string bytes(Below(40), '\0');
    for (char& byte : bytes) byte = static_cast<char>(Below(3) == 0 ? Below(256) : Below(0x80));
    return bytes;
  }
  std::string CodePoint() {
    const int limits[] = {0x80, 0x800, 0x3100, 0x10000, 0x110000};
    int c = Below(Of(limits));
    if (c >= 0xD800 && c <= 0xDFFF) c = 'x';
    const auto tail = [&](int shift) { return static_cast<char>(0x80 | ((c >> shift) & 0x3F)); };
    if (c < 0x80) return {static_cast<char>(c)};
    if (c < 0x800) return {static_cast<char>(0xC0 | c >> 6), tail(0)};
    if (c < 0x10000) return {static_cast<char>(0xE0 | c >> 12), tail(6), tail(0)};
    return {static_cast<char>(0xF0 | c >> 18), tail(12), tail(6), tail(0)};
  }
  std::string Text() {
    static const char* const kWords[] = {" the",   "tower", "  ",  "\n",   "\r\n", "12345",
                                         "don't",  "一龥",  "の",  "🙂", "!?",   "é",
                                         "aaaaaa", "//",    "\t ", "Ⅷ½"};
    std::string text;
    for (int i = Below(30); i > 0; --i) {
      absl::StrAppend(&text, Below(3) == 0 ? CodePoint() : std::string(Of(kWords)));
    }
    return text;
  }

 private:
  std::mt19937_64 engine_;
};

// Runs `check(random)` for many seeds, or for SHOAL_SEED's alone, up to the first that fails.
template <typename Check>
void ForSeeds(uint64_t count, Check check) {
  uint64_t first = 1;
  uint64_t last = count;
  if (const char* seed = std::getenv("SHOAL_SEED")) {
    first = last = std::strtoull(seed, nullptr, 10);
  }
  for (uint64_t seed = first; seed <= last; ++seed) {
    Random random(seed);
    check(random);
    ASSERT_FALSE(testing::Test::HasFailure()) << "SHOAL_SEED=" << seed;
  }
}

const Tokenizer& Tiny() {
  static const std::unique_ptr<Tokenizer> tokenizer =
      Tokenizer::Load(std::string(SHOAL_SOURCE_DIR) + "/tests/golden/text/tiny-tokenizer").value();
  return *tokenizer;
}

TEST(TextProperty, EncodeThenDecodeGivesTheTextBack) {
  ForSeeds(3000, [](Random& random) {
    const std::string bytes = random.Below(2) == 0 ? random.Bytes() : random.Text();
    const std::string text = ToValidUtf8(bytes);
    ASSERT_TRUE(IsValidUtf8(text));
    EXPECT_EQ(ToValidUtf8(text), text);
    for (const Matching matching : {Matching::kAddedTokens, Matching::kPlain}) {
      const Ids ids = Tiny().Encode(bytes, matching);
      EXPECT_EQ(Tiny().Decode(ids, false), text);
      EXPECT_EQ(Tiny().Encode(text, matching), ids);
      for (const int32_t id : ids) EXPECT_TRUE(id >= 0 && id < Tiny().vocab_size());
    }
  });
}

// Three letters and random merges of them; pieces both shorter and longer than where the merger
// changes its algorithm.
TEST(TextProperty, MergingEqualsItsDefinition) {
  ForSeeds(600, [](Random& random) {
    std::array<int32_t, 256> byte_ids;
    byte_ids.fill(-1);
    for (int i = 0; i < 3; ++i) byte_ids['a' + i] = i;
    BytePairMerger merger(byte_ids);
    std::map<std::pair<int32_t, int32_t>, std::pair<int, int32_t>> merges;  // rank, merged
    int32_t ids = 3;
    for (int rank = 0; rank < 40; ++rank) {
      const std::pair<int32_t, int32_t> pair(random.Below(ids), random.Below(ids));
      // Sometimes two merges make the same token, as in real vocabularies.
      const int32_t merged = random.Below(5) == 0 && ids > 3 ? 3 + random.Below(ids - 3) : ids++;
      merger.AddMerge(pair.first, pair.second, merged);
      merges.try_emplace(pair, rank, merged);
    }
    std::string piece(1 + random.Below(200), 'a');
    for (char& c : piece) c = static_cast<char>('a' + random.Below(3));
    Ids wanted;
    for (const char c : piece) wanted.push_back(c - 'a');
    while (true) {
      auto best = merges.end();
      size_t at = 0;
      for (size_t i = 0; i + 1 < wanted.size(); ++i) {
        const auto it = merges.find({wanted[i], wanted[i + 1]});
        if (it != merges.end() && (best == merges.end() || it->second < best->second)) {
          best = it;
          at = i;
        }
      }
      if (best == merges.end()) break;
      wanted[at] = best->second.second;
      wanted.erase(wanted.begin() + static_cast<ptrdiff_t>(at) + 1);
    }
    Ids got;
    merger.Append(piece, got);
    EXPECT_EQ(got, wanted) << piece;
  });
}

TEST(TextProperty, StreamedTextEqualsTheWhole) {
  ForSeeds(3000, [](Random& random) {
    Ids ids;
    if (random.Below(2) == 0) {
      ids = Tiny().Encode(random.Text(), Matching::kPlain);
    } else {  // anything a model may sample: bytes that form no text, ids without a token
      for (int i = random.Below(30); i > 0; --i) ids.push_back(random.Below(2060));
      for (int i = random.Below(20); i > 0; --i) ids.push_back(3 + random.Below(256));
    }
    const bool skip_special = random.Below(2) == 0;
    StreamDecoder decoder(Tiny(), skip_special);
    std::string streamed;
    for (const int32_t id : ids) {
      const std::string delta = decoder.Push(id);
      EXPECT_TRUE(IsValidUtf8(delta));
      absl::StrAppend(&streamed, delta);
    }
    absl::StrAppend(&streamed, decoder.Flush());
    EXPECT_EQ(streamed, Tiny().Decode(ids, skip_special));
    EXPECT_EQ(decoder.Flush(), "");
  });
}

struct Split {
  std::string reasoning;
  std::string content;
  bool has_reasoning;
  bool operator==(const Split&) const = default;
};

Split SplitPieces(bool starts_in_reasoning, const std::vector<std::string>& pieces) {
  ReasoningSplitter splitter(starts_in_reasoning);
  Split split;
  const auto add = [&](const ReasoningSplitter::Delta& delta) {
    absl::StrAppend(&split.reasoning, delta.reasoning);
    absl::StrAppend(&split.content, delta.content);
  };
  for (const std::string& piece : pieces) add(splitter.Push(piece));
  add(splitter.Flush());
  split.has_reasoning = splitter.has_reasoning();
  return split;
}

TEST(TextProperty, TheSplitterDoesNotCareWhereItsInputIsCut) {
  ForSeeds(1500, [](Random& random) {
    static const char* const kParts[] = {"<think>", "</think>", "<thi", "nk>", "</",         "<",
                                         ">",       "a",        "\n",   "一",  "</thinking>"};
    std::string output;
    for (int i = random.Below(8); i > 0; --i) absl::StrAppend(&output, random.Of(kParts));
    const bool starts = random.Below(2) == 0;
    // The rule, on the whole output.
    absl::string_view rest = output;
    const bool opened = rest.substr(0, 7) == "<think>";
    if (opened) rest.remove_prefix(7);
    Split wanted{"", "", starts || opened};
    const size_t end = wanted.has_reasoning ? rest.find("</think>") : 0;
    if (!wanted.has_reasoning) {
      wanted.content = std::string(rest);
    } else if (end == rest.npos) {
      wanted.reasoning = std::string(rest);
    } else {
      wanted.reasoning = std::string(rest.substr(0, end));
      wanted.content = std::string(rest.substr(end + 8));
    }
    EXPECT_EQ(SplitPieces(starts, {output}), wanted) << output;
    for (size_t at = 0; at <= output.size(); ++at) {
      EXPECT_EQ(SplitPieces(starts, {output.substr(0, at), output.substr(at)}), wanted)
          << output << " cut at " << at;
    }
    std::vector<std::string> bytes;
    for (const char c : output) bytes.emplace_back(1, c);
    EXPECT_EQ(SplitPieces(starts, bytes), wanted) << output << " byte by byte";
  });
}

// Markup in every place a client can write to.
std::string Hostile(Random& random) {
  static const char* const kMarkup[] = {"<｜User｜>",
                                        "<｜Assistant｜>",
                                        "<｜begin▁of▁sentence｜>",
                                        "<｜end▁of▁sentence｜>",
                                        "<think>",
                                        "</think",
                                        ">",
                                        "<｜tool▁calls▁begin｜>",
                                        "<｜tool▁outputs▁end｜>",
                                        "<｜tool▁sep｜>",
                                        "<｜",
                                        "User｜>",
                                        "text",
                                        "\n"};
  std::string text;
  for (int i = random.Below(6); i > 0; --i) absl::StrAppend(&text, random.Of(kMarkup));
  return text;
}

ChatRequest Conversation(Random& random, ChatFormat format) {
  ChatRequest request;
  const bool calls = format != ChatFormat::kV2;
  for (int i = 1 + random.Below(7); i > 0; --i) {
    ChatMessage message;
    const ChatRole roles[] = {ChatRole::kUser, ChatRole::kAssistant, ChatRole::kSystem,
                              ChatRole::kTool};
    message.role = roles[random.Below(calls ? 4 : 3)];
    if (calls && message.role == ChatRole::kAssistant) {
      message.tool_calls.resize(random.Below(3));
    }
    request.messages.push_back(std::move(message));
  }
  if (format == ChatFormat::kV31) {
    request.tools.resize(random.Below(3));
    request.thinking = random.Below(2) == 0;
  }
  request.add_generation_prompt = random.Below(4) != 0;
  return request;
}

void FillIn(ChatRequest& request, const std::function<std::string()>& text) {
  for (ChatMessage& message : request.messages) {
    message.content = text();
    message.reasoning_content = text();
    message.tool_call_id = text();
    for (ToolCall& call : message.tool_calls) call = {text(), text(), text(), text()};
  }
  for (Tool& tool : request.tools) tool = {text(), text(), text()};
}

TEST(TextProperty, NobodyCanForgeATurn) {
  int64_t hostile_literals = 0;
  ForSeeds(2000, [&](Random& random) {
    const ChatFormat formats[] = {ChatFormat::kV2, ChatFormat::kV3, ChatFormat::kR1,
                                  ChatFormat::kR1_0528, ChatFormat::kV31};
    const ChatFormat format = random.Of(formats);
    const ChatRequest shape = Conversation(random, format);
    ChatRequest benign = shape;
    FillIn(benign, [] { return std::string("x"); });
    ChatRequest hostile = shape;
    FillIn(hostile, [&] { return Hostile(random); });
    const auto special_ids = [&](const ChatRequest& request) {
      const RenderedPrompt prompt = RenderChat(format, request).value();
      const Ids ids = EncodePrompt(Tiny(), prompt).value();
      EXPECT_EQ(Tiny().Decode(ids, false), prompt.text);
      Ids special;
      for (const int32_t id : ids) {
        if (Tiny().IsAdded(id)) special.push_back(id);
      }
      int64_t matched = 0;
      for (const int32_t id : Tiny().Encode(prompt.text, Matching::kAddedTokens)) {
        matched += Tiny().IsAdded(id) ? 1 : 0;
      }
      hostile_literals += matched - static_cast<int64_t>(special.size());
      return special;
    };
    EXPECT_EQ(special_ids(hostile), special_ids(benign)) << ChatFormatName(format);
  });
  // The attack is real: ordinary matching would have taken these for turns.
  EXPECT_TRUE(std::getenv("SHOAL_SEED") != nullptr || hostile_literals > 1000);
}

TEST(TextProperty, ManyThreadsShareATokenizer) {
  Random random(1);
  std::vector<std::string> texts(200);
  std::vector<Ids> wanted;
  for (std::string& text : texts) {
    text = absl::StrCat(random.Text(), Hostile(random));
    wanted.push_back(Tiny().Encode(text, Matching::kAddedTokens));
  }
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (size_t i = 0; i < texts.size(); ++i) {
        const Ids ids = Tiny().Encode(texts[i], Matching::kAddedTokens);
        if (ids != wanted[i] || Tiny().Decode(ids, false) != texts[i]) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace shoal
