// SPDX-License-Identifier: Apache-2.0
// Shows that prompts are those of the published chat templates, byte for byte and id for id: every
// conversation of the fixtures is read from its OpenAI body, rendered and encoded. Two kinds of
// rows differ by design. Where the published template has a plain defect (`quirks`), the prompt
// wanted is written out below. Where a message itself contains special-token literals, the
// fixture's ids come from ordinary matching, which would let a client forge turns; there the ids
// must spell the same text, with special ids only for the template's own tokens.
#include <gtest/gtest.h>

#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_replace.h"
#include "engine/text/chat_json.h"
#include "engine/text/chat_template.h"
#include "engine/text/reasoning_splitter.h"
#include "tests/golden/text_fixtures.h"

namespace shoal {
namespace {

using Ids = std::vector<int32_t>;

struct Family {
  const char* fixture;
  ChatFormat format;
  const char* tokenizer;
  int cases;
};
void PrintTo(const Family& family, std::ostream* out) { *out << family.fixture; }

// Special tokens are written B, E, U, A and so on within {}, to keep the prompts readable.
std::string Spelled(absl::string_view prompt) {
  return absl::StrReplaceAll(prompt, {{"{B}", "<｜begin▁of▁sentence｜>"},
                                      {"{E}", "<｜end▁of▁sentence｜>"},
                                      {"{U}", "<｜User｜>"},
                                      {"{A}", "<｜Assistant｜>"},
                                      {"{calls}", "<｜tool▁calls▁begin｜>"},
                                      {"{/calls}", "<｜tool▁calls▁end｜>"},
                                      {"{call}", "<｜tool▁call▁begin｜>function<｜tool▁sep｜>"},
                                      {"{/call}", "<｜tool▁call▁end｜>"},
                                      {"{outs}", "<｜tool▁outputs▁begin｜>"},
                                      {"{/outs}", "<｜tool▁outputs▁end｜>"},
                                      {"{out}", "<｜tool▁output▁begin｜>"},
                                      {"{/out}", "<｜tool▁output▁end｜>"},
                                      {"{json}", "\n```json\n"},
                                      {"{/json}", "\n```"}});
}

// The prompt a row should give. The repairs are the ones chat_template.h promises.
std::string WantedPrompt(const nlohmann::ordered_json& row) {
  std::string prompt = row.at("prompt");
  const std::string id = row.at("id");
  std::set<std::string> quirks;
  if (row.contains("quirks")) quirks = row["quirks"].get<std::set<std::string>>();
  if (quirks.count("prefix_gets_eos") != 0) {
    EXPECT_TRUE(absl::EndsWith(prompt, Spelled("{E}"))) << id;
    prompt.resize(prompt.size() - Spelled("{E}").size());
  }
  if (quirks.count("calls_end_missing_for_single_call") != 0) {
    // One round of one call, never closed: its end is where the results begin.
    const std::string open = Spelled("{/call}{outs}");
    EXPECT_TRUE(absl::StrContains(prompt, open)) << id;
    prompt = absl::StrReplaceAll(prompt, {{open, Spelled("{/call}{/calls}{E}{outs}")}});
  }
  static const std::map<std::string, std::string> kDropped = {
      {"call-02",
       "{B}s{U}High water in Kiel?{A}Let me look.{calls}{call}tide_table{json}{\"harbour\": "
       "\"Kiel\"}{/json}{/call}{/calls}{E}{outs}{out}03:12{/out}{/outs}At 03:12.{E}{U}Thanks, and "
       "Emden?{A}"},
      {"call-03",
       "{B}{U}20 °C in K and °F{A}{calls}{call}convert_units{json}{\"value\": 20, \"from\": "
       "\"°C\", \"to\": \"K\", \"exact\": "
       "true}{/json}{/call}\n{call}convert_units{json}{\"value\": "
       "20.5, \"from\": \"°C\", \"to\": \"°F\", \"exact\": "
       "false}{/json}{/call}{/calls}{E}{outs}{out}293.15{/out}\n{out}68.9{/out}{/outs}"},
      {"call-08",
       "{B}{U}order{A}{calls}{call}ping{json}{}{/json}{/call}\n{call}tide_table{json}{\"harbour\": "
       "\"B\"}{/json}{/call}{/calls}{E}{outs}{out}second result first{/out}\n{out}first result "
       "second{/out}{/outs}"}};
  if (quirks.count("calls_dropped_when_content_not_null") != 0) prompt = Spelled(kDropped.at(id));
  static const std::map<std::string, std::string> kSecondRound = {
      {"call-06",
       "{B}{U}multi{A}{calls}{call}ping{json}{}{/json}{/call}\n{call}tide_table{json}{\"harbour\": "
       "\"Brest\"}{/json}{/call}{/calls}{E}{outs}{out}pong{/out}{out}low{/out}{/outs}"
       "{A}{calls}{call}convert_units{json}{\"value\": 0, \"from\": \"K\", \"to\": "
       "\"°C\"}{/json}{/call}{/calls}{E}{outs}{out}-273.15{/out}{/outs}"},
      {"call-07",
       "{B}{U}multi{A}{calls}{call}ping{json}{}{/json}{/call}{/calls}{E}{outs}{out}pong{/out}"
       "{/outs}Final.{E}{U}next{A}{calls}{call}ping{json}{}{/json}{/call}{/calls}{E}{outs}{out}"
       "pong2{/out}{/outs}"}};
  if (quirks.count("first_call_flag_never_reset") != 0) prompt = Spelled(kSecondRound.at(id));
  return prompt;
}

class ChatGolden : public testing::TestWithParam<Family> {};

TEST_P(ChatGolden, RendersEveryConversation) {
  int cases = 0;
  for (const nlohmann::ordered_json& row :
       golden::ReadFixture(std::string("chat-") + GetParam().fixture)) {
    const absl::StatusOr<ChatRequest> request = ParseChatBody(row.at("request").dump());
    ASSERT_TRUE(request.ok()) << request.status() << row;
    const absl::StatusOr<RenderedPrompt> prompt = RenderChat(GetParam().format, *request);
    ASSERT_TRUE(prompt.ok()) << prompt.status() << row;
    EXPECT_EQ(prompt->text, WantedPrompt(row)) << row.at("id");
    ++cases;
  }
  EXPECT_EQ(cases, GetParam().cases);
}

TEST_P(ChatGolden, EncodesEveryConversation) {
  SHOAL_TOKENIZER_OR_SKIP(tokenizer, GetParam().tokenizer);
  int equal = 0;
  int by_design = 0;
  for (const nlohmann::ordered_json& row :
       golden::ReadFixture(std::string("chat-") + GetParam().fixture)) {
    const absl::StatusOr<ChatRequest> request = ParseChatBody(row.at("request").dump());
    ASSERT_TRUE(request.ok()) << request.status();
    const absl::StatusOr<RenderedPrompt> prompt = RenderChat(GetParam().format, *request);
    ASSERT_TRUE(prompt.ok()) << prompt.status();
    const absl::StatusOr<Ids> ids = EncodePrompt(*tokenizer, *prompt);
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(tokenizer->Decode(*ids, /*skip_special=*/false), prompt->text) << row.at("id");
    const Ids matched = tokenizer->Encode(prompt->text, Tokenizer::Matching::kAddedTokens);
    const bool as_published = prompt->text == row.at("prompt").get<std::string>();
    if (as_published) {
      EXPECT_EQ(matched, row.at("ids").get<Ids>()) << row.at("id");
    }
    Ids added;
    for (const int32_t id : *ids) {
      if (tokenizer->IsAdded(id)) added.push_back(id);
    }
    Ids own;
    bool foreign = false;  // the text part contains a literal that ordinary matching would take
    for (const Segment& segment : prompt->segments) {
      const absl::string_view part =
          absl::string_view(prompt->text).substr(segment.begin, segment.end - segment.begin);
      if (segment.special) {
        own.push_back(tokenizer->TokenId(part).value());
        continue;
      }
      for (const int32_t id : tokenizer->Encode(part, Tokenizer::Matching::kAddedTokens)) {
        foreign = foreign || tokenizer->IsAdded(id);
      }
    }
    EXPECT_EQ(added, own) << row.at("id");
    if (foreign) {
      EXPECT_NE(*ids, matched) << row.at("id");
      ++by_design;
    } else {
      EXPECT_EQ(*ids, matched) << row.at("id");
      equal += as_published ? 1 : 0;
    }
  }
  std::printf("%s: %d prompts with the fixture's ids, %d with literals in a message\n",
              GetParam().fixture, equal, by_design);
  EXPECT_GE(equal, 20);
  EXPECT_GE(by_design, 1);
}

INSTANTIATE_TEST_SUITE_P(All, ChatGolden,
                         testing::Values(Family{"v2", ChatFormat::kV2, "v2", 27},
                                         Family{"v3", ChatFormat::kV3, "v3", 40},
                                         Family{"r1", ChatFormat::kR1, "v3", 52},
                                         Family{"r1-0528", ChatFormat::kR1_0528, "v3", 52},
                                         Family{"v3.1", ChatFormat::kV31, "v3", 60},
                                         Family{"tiny", ChatFormat::kV3, "tiny", 27}),
                         [](const auto& info) {
                           return absl::StrReplaceAll(info.param.fixture, {{"-", "_"}, {".", "_"}});
                         });

TEST(ChatFormatGolden, IsReadFromPublishedDirectories) {
  EXPECT_EQ(DetectChatFormat(*golden::TokenizerDirectory("tiny")).value(), ChatFormat::kV3);
  if (!golden::TokenizerDirectory("v2").has_value()) {
    GTEST_SKIP() << "SHOAL_TOKENIZERS is not set: only the tiny directory was looked at";
  }
  EXPECT_EQ(DetectChatFormat(*golden::TokenizerDirectory("v2")).value(), ChatFormat::kV2);
  EXPECT_EQ(DetectChatFormat(*golden::TokenizerDirectory("v3")).value(), ChatFormat::kR1_0528);
  EXPECT_TRUE(absl::IsNotFound(DetectChatFormat(*golden::TokenizerDirectory("v4")).status()));
}

// Thoughts and answer of every output in the parser fixtures. Their `content` stops at the first
// tool call, which is another parser's business: the splitter must give at least that much, and the
// rest verbatim.
TEST(ReasoningSplitterGolden, SplitsEveryOutput) {
  int cases = 0;
  for (const char* fixture : {"parse-v3-r1", "parse-v3.1"}) {
    for (const nlohmann::ordered_json& row : golden::ReadFixture(fixture)) {
      ReasoningSplitter splitter(row.at("starts_in_reasoning").get<bool>());
      const std::string raw = row.at("raw");
      const ReasoningSplitter::Delta first = splitter.Push(raw);
      const ReasoningSplitter::Delta last = splitter.Flush();
      const nlohmann::ordered_json& expected = row.at("expected");
      EXPECT_EQ(splitter.has_reasoning(), !expected.at("reasoning_content").is_null()) << row;
      if (splitter.has_reasoning()) {
        EXPECT_EQ(first.reasoning + last.reasoning, expected["reasoning_content"]) << row;
      }
      const std::string content = first.content + last.content;
      const std::string wanted = expected.at("content");
      EXPECT_TRUE(absl::StartsWith(content, wanted)) << row;
      EXPECT_TRUE(absl::EndsWith(raw, content)) << row;
      const bool calls = absl::StrContains(content, "<｜tool▁calls▁begin｜>");
      EXPECT_TRUE(calls || content == wanted) << row;
      ++cases;
    }
  }
  EXPECT_EQ(cases, 82);
}

}  // namespace
}  // namespace shoal
