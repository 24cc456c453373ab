// SPDX-License-Identifier: Apache-2.0
// Shows that our ids and texts are those of the published tokenizers: 500 texts each for V2, V3, V4
// and the bundled tiny one, encoded with and without added tokens and decoded with and without
// special ones, against the answers of Hugging Face `tokenizers` 0.23.3; and 149 token streams
// whose deltas must be exactly what may be shown so far.
#include <gtest/gtest.h>

#include "engine/text/stream_decoder.h"
#include "tests/golden/text_fixtures.h"

namespace shoal {
namespace {

using Ids = std::vector<int32_t>;
using Matching = Tokenizer::Matching;

class TokenizerGolden : public testing::TestWithParam<const char*> {};

TEST_P(TokenizerGolden, EncodesAndDecodesEveryText) {
  SHOAL_TOKENIZER_OR_SKIP(tokenizer, GetParam());
  int cases = 0;
  for (const nlohmann::ordered_json& row :
       golden::ReadFixture(std::string("tokenizer-") + GetParam())) {
    const std::string text = row.at("text");
    const Ids ids = row.at("ids").get<Ids>();
    const Ids ids_plain = row.contains("ids_plain") ? row["ids_plain"].get<Ids>() : ids;
    const std::string decoded = row.at("decoded");
    EXPECT_EQ(tokenizer->Encode(text, Matching::kAddedTokens), ids) << row;
    EXPECT_EQ(tokenizer->Encode(text, Matching::kPlain), ids_plain) << row;
    EXPECT_EQ(tokenizer->Decode(ids, /*skip_special=*/false), decoded) << row;
    EXPECT_EQ(tokenizer->Decode(ids, /*skip_special=*/true),
              row.value("decoded_skip_special", decoded))
        << row;
    ++cases;
  }
  EXPECT_EQ(cases, 500);
}

TEST_P(TokenizerGolden, KnowsItsSpecialTokens) {
  SHOAL_TOKENIZER_OR_SKIP(tokenizer, GetParam());
  struct Wanted {
    int32_t size, bos, eos, think;  // think -1: the vocabulary has none
  };
  const std::map<std::string, Wanted> wanted = {{"tiny", {2048, 0, 1, 2031}},
                                                {"v2", {100002, 100000, 100001, -1}},
                                                {"v3", {128815, 0, 1, 128798}},
                                                {"v4", {129280, 0, 1, 128821}}};
  const Wanted& want = wanted.at(GetParam());
  EXPECT_EQ(tokenizer->vocab_size(), want.size);
  EXPECT_EQ(tokenizer->bos_token_id(), want.bos);
  EXPECT_EQ(tokenizer->eos_token_id(), want.eos);
  EXPECT_EQ(tokenizer->TokenId("<think>").value_or(-1), want.think);
  EXPECT_TRUE(tokenizer->IsSpecial(want.bos));
  EXPECT_EQ(tokenizer->TokenBytes(want.bos), "<｜begin▁of▁sentence｜>");
  EXPECT_FALSE(tokenizer->IsSpecial(want.think));
}

INSTANTIATE_TEST_SUITE_P(All, TokenizerGolden, testing::Values("tiny", "v2", "v3", "v4"),
                         [](const auto& info) { return std::string(info.param); });

TEST(StreamDecoderGolden, EmitsExactlyWhatMayBeShown) {
  int run = 0;
  std::map<std::string, int> skipped;
  for (const nlohmann::ordered_json& row : golden::ReadFixture("detokenize-stream")) {
    const std::string name = row.at("tokenizer");
    if (!golden::TokenizerDirectory(name).has_value()) {
      ++skipped[name];
      continue;
    }
    const Tokenizer* tokenizer = golden::LoadedTokenizer(name);
    ASSERT_NE(tokenizer, nullptr);
    const Ids ids = row.at("ids").get<Ids>();
    StreamDecoder decoder(*tokenizer, /*skip_special=*/false);
    for (size_t i = 0; i < ids.size(); ++i) {
      EXPECT_EQ(decoder.Push(ids[i]), row.at("deltas")[i].get<std::string>()) << row << " at " << i;
    }
    EXPECT_EQ(decoder.Flush(), row.at("tail_at_end").get<std::string>()) << row;
    EXPECT_EQ(tokenizer->Decode(ids, false), row.at("text").get<std::string>()) << row;
    ++run;
  }
  EXPECT_GT(run, 0);
  for (const auto& [name, count] : skipped) {
    std::printf("skipped %d streams of tokenizer %s: SHOAL_TOKENIZERS is not set\n", count,
                name.c_str());
  }
}

}  // namespace
}  // namespace shoal
