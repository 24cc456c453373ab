// SPDX-License-Identifier: Apache-2.0
// Shows that a tokenizer of another model is refused, whichever sign gives it away, and that the
// padding and the special ids of the released models are accepted: the bundled tokenizer against
// configs that say something else.
#include "engine/tokenizer_match.h"

#include <memory>
#include <string>

#include "engine/config/read_model_config.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;

class TokenizerMatch : public ::testing::Test {
 protected:
  TokenizerMatch() {
    const std::string folder = std::string(SHOAL_SOURCE_DIR) + "/deploy/models/shoal-tiny";
    tokenizer_ = *Tokenizer::Load(folder);
    config_ = *ReadModelConfig(folder);
  }
  absl::Status Check() const { return CheckTokenizerMatches("DIR", config_, *tokenizer_); }
  void Expect(const std::string& message) {
    EXPECT_EQ(Check().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(Check().message()), HasSubstr(message));
  }

  std::unique_ptr<Tokenizer> tokenizer_;
  ModelConfig config_;  // 2,048 ids; 0 begins a sentence, 1 ends it
};

TEST_F(TokenizerMatch, ItsOwn) { EXPECT_TRUE(Check().ok()) << Check(); }

TEST_F(TokenizerMatch, IdsBeyondTheEmbedding) {
  config_.vocab_size = 2047;
  Expect("DIR: tokenizer.json has ids up to 2047, config.json's vocab_size is 2047");
}

TEST_F(TokenizerMatch, PaddingAsInTheReleasedModelsOnly) {
  config_.vocab_size = 2048 * 102400 / 100002 + 1;  // V2
  EXPECT_TRUE(Check().ok()) << Check();
  config_.vocab_size = 2114;
  EXPECT_TRUE(Check().ok()) << Check();
  config_.vocab_size = 2115;
  Expect("tokenizer.json has 2048 tokens, config.json's vocab_size is 2115: want at least 2049");
}

TEST_F(TokenizerMatch, BeginOfSentence) {
  config_.bos_token_id = -1;
  EXPECT_TRUE(Check().ok()) << Check();
  config_.bos_token_id = 1;
  Expect(
      "config.json's bos_token_id is 1 (<｜end▁of▁sentence｜>), the tokenizer's bos_token 0 "
      "(<｜begin▁of▁sentence｜>)");
}

TEST_F(TokenizerMatch, EndOfSentence) {
  config_.eos_token_ids = {};
  EXPECT_TRUE(Check().ok()) << Check();
  config_.eos_token_ids = {5, 1};  // more than one may end it
  EXPECT_TRUE(Check().ok()) << Check();
  config_.eos_token_ids = {0};
  Expect(
      "eos_token_id is 0 (<｜begin▁of▁sentence｜>), the tokenizer's eos_token 1 "
      "(<｜end▁of▁sentence｜>)");
  config_.vocab_size = 2060;
  config_.eos_token_ids = {1, 2055};
  Expect("eos_token_id is 2055, which has no token");
}

}  // namespace
}  // namespace shoal
