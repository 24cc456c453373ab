// SPDX-License-Identifier: Apache-2.0
// Shows the shortest path whole: text in, the golden's greedy text out, piece by piece; seeded
// sampling repeats itself; and what cannot run says why before anything is loaded.
#include "engine/run.h"

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/text/tokenizer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/golden/golden_file.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;

const char kTiny[] = SHOAL_SOURCE_DIR "/deploy/models/shoal-tiny";

RunOptions TinyOptions() {
  RunOptions options;
  options.model = kTiny;
  options.prompt = "KING RICHARD:";
  options.max_tokens = 64;
  options.sampling.temperature = 0;
  options.ignore_eos = true;
  options.backend = "reference";
  return options;
}

std::string Text(const RunOptions& options) {
  std::string text;
  const absl::Status status =
      shoal::Run(options, [&](absl::string_view piece) { absl::StrAppend(&text, piece); });
  EXPECT_TRUE(status.ok()) << status;
  return text;
}

TEST(Run, WritesTheGoldenText) {
  const GoldenFile golden("shoal-tiny");
  const auto tokenizer = Tokenizer::Load(kTiny);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const std::vector<int32_t> prompt = golden.Ints("c0.tokens");
  ASSERT_EQ(prompt[0], 0) << "the begin token, which Run puts first by itself";
  RunOptions options = TinyOptions();
  options.prompt = (*tokenizer)->Decode(prompt, true);
  EXPECT_EQ(options.prompt, "KING RICHARD:\n");
  EXPECT_EQ(Text(options), (*tokenizer)->Decode(golden.Ints("c0.greedy"), true));
}

TEST(Run, SameSeedSameText) {
  RunOptions options = TinyOptions();
  options.backend = "cpu";
  options.sampling.temperature = 1;
  options.sampling.seed = 7;
  const std::string text = Text(options);
  EXPECT_EQ(Text(options), text);
  options.sampling.seed = 8;
  EXPECT_NE(Text(options), text);
}

TEST(Run, PromptsLongerThanAChunk) {
  RunOptions options = TinyOptions();
  options.backend = "cpu";
  options.max_tokens = 4;
  options.prompt.clear();
  for (int i = 0; i < 400; ++i) absl::StrAppend(&options.prompt, "To be, or not to be. ");
  const absl::Status status = shoal::Run(options, [](absl::string_view) {});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("want 1..2048 in all"));
  options.prompt.resize(4000);
  EXPECT_FALSE(Text(options).empty());
}

TEST(Run, ATokenizerThatDoesNotMatch) {
  const std::string folder = absl::StrCat(testing::TempDir(), "/shoal-run-mismatch");
  std::filesystem::remove_all(folder);
  std::filesystem::copy(ModelsFolder() + "v3", folder);
  for (const char* file : {"tokenizer.json", "tokenizer_config.json"}) {
    std::filesystem::copy_file(absl::StrCat(kTiny, "/", file), absl::StrCat(folder, "/", file));
  }
  RunOptions options = TinyOptions();
  options.model = folder;
  const absl::Status status = shoal::Run(options, [](absl::string_view) {});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("ids up to 2047, config.json's vocab_size is 384: they do not match"));
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace shoal
