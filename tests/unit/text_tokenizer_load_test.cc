// SPDX-License-Identifier: Apache-2.0
// Shows that a tokenizer.json which is damaged, inconsistent, or asks for something we do not
// implement is refused at load with a message that names the thing. How: the bundled tokenizer's
// file is changed in one place, written to a scratch folder and loaded.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/text/tokenizer.h"

namespace shoal {
namespace {

using nlohmann::json;

class TokenizerLoad : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = testing::TempDir() + "/tokenizer_load_" +
                 testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::create_directories(directory_);
    std::ifstream in(std::string(SHOAL_SOURCE_DIR) +
                     "/tests/golden/text/tiny-tokenizer/tokenizer.json");
    text_.assign(std::istreambuf_iterator<char>(in), {});
    ASSERT_FALSE(text_.empty());
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  void Write(const std::string& name, const std::string& text) {
    std::ofstream(directory_ + "/" + name, std::ios::binary) << text;
  }
  absl::Status LoadText(const std::string& text) {
    Write("tokenizer.json", text);
    return Tokenizer::Load(directory_).status();
  }
  absl::Status LoadChanged(const std::function<void(json&)>& change) {
    json root = json::parse(text_);
    change(root);
    return LoadText(root.dump());
  }

  std::string directory_;
  std::string text_;
};

void ExpectError(const absl::Status& status, absl::StatusCode code, absl::string_view part) {
  EXPECT_EQ(status.code(), code) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), part)) << status << "\nlacks: " << part;
}

TEST_F(TokenizerLoad, MissingFolderOrFile) {
  ExpectError(Tokenizer::Load(directory_ + "/absent").status(), absl::StatusCode::kNotFound,
              "absent/tokenizer.json");
  ExpectError(Tokenizer::Load(directory_).status(), absl::StatusCode::kNotFound, "no such file");
  std::filesystem::create_directory(directory_ + "/tokenizer.json");
  ExpectError(Tokenizer::Load(directory_).status(), absl::StatusCode::kInvalidArgument,
              "not a regular file");
}

TEST_F(TokenizerLoad, TruncatedAnywhere) {
  for (size_t size = 0; size + 2 < text_.size(); size += 997) {
    const absl::Status status = LoadText(text_.substr(0, size));
    ExpectError(status, absl::StatusCode::kDataLoss, "truncated?): not valid JSON");
  }
}

TEST_F(TokenizerLoad, DamagedAnywhereNeverCrashes) {
  // A flipped byte may leave a file that is still good (a merge's spelling, a flag): only that
  // loading ends, with a tokenizer or a message, is asked for.
  for (size_t at = 0; at < text_.size(); at += 241) {
    std::string damaged = text_;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x15);
    const absl::Status status = LoadText(damaged);
    EXPECT_TRUE(status.ok() || absl::StrContains(status.message(), "tokenizer.json")) << status;
  }
}

TEST_F(TokenizerLoad, NestedAbsurdly) {
  const std::string deep = std::string(1000000, '[') + std::string(1000000, ']');
  ExpectError(LoadText("{\"pre_tokenizer\": " + deep + "}"), absl::StatusCode::kDataLoss,
              "nested deeper");
}

TEST_F(TokenizerLoad, NotAnObject) {
  ExpectError(LoadText("[1, 2]"), absl::StatusCode::kInvalidArgument, "found array");
}

TEST_F(TokenizerLoad, UnknownPartsAreNamed) {
  struct Case {
    const char* pointer;
    json value;
    const char* part;
  };
  const Case cases[] = {
      {"/model/type", "Unigram", "model.type: \"Unigram\""},
      {"/model/dropout", 0.1, "model.dropout: 0.1"},
      {"/model/byte_fallback", true, "model.byte_fallback"},
      {"/model/ignore_merges", true, "model.ignore_merges"},
      {"/model/continuing_subword_prefix", "##", "model.continuing_subword_prefix"},
      {"/normalizer", {{"type", "NFC"}}, "normalizer: {\"type\":\"NFC\"}"},
      {"/decoder", {{"type", "WordPiece"}}, "decoder: {\"type\":\"WordPiece\"}"},
      {"/decoder", nullptr, "decoder: null"},
      {"/pre_tokenizer", nullptr, "pre_tokenizer: null"},
      {"/pre_tokenizer/pretokenizers/0", {{"type", "Metaspace"}}, "pretokenizers[0]"},
      {"/pre_tokenizer/pretokenizers/0/behavior", "Removed", "\"Removed\""},
      {"/pre_tokenizer/pretokenizers/0/invert", true, "pretokenizers[0]"},
      {"/pre_tokenizer/pretokenizers/0/pattern", {{"String", "a"}}, "pretokenizers[0]"},
      {"/pre_tokenizer/pretokenizers/0/pattern/Regex", "\\p{Han}+", "\\p{Han}"},
      {"/pre_tokenizer/pretokenizers/0/pattern/Regex", "a*", "can match nothing"},
      {"/pre_tokenizer/pretokenizers/0/pattern/Regex", "(?:a", "regular expression"},
      {"/pre_tokenizer/pretokenizers/3/use_regex", true, "the last step"},
      {"/pre_tokenizer/pretokenizers/3/add_prefix_space", true, "the last step"},
      {"/added_tokens/3/single_word", true, "added_tokens[3].single_word"},
      {"/added_tokens/3/lstrip", true, "added_tokens[3].lstrip"},
  };
  for (const Case& c : cases) {
    const absl::Status status =
        LoadChanged([&](json& root) { root[json::json_pointer(c.pointer)] = c.value; });
    ExpectError(status, absl::StatusCode::kUnimplemented, c.part);
    ExpectError(status, absl::StatusCode::kUnimplemented, "tokenizer.json");
  }
}

TEST_F(TokenizerLoad, ContradictionsAreNamed) {
  struct Case {
    const char* pointer;
    json value;
    const char* part;
  };
  const Case cases[] = {
      {"/model", 3, "model: wanted an object"},
      {"/model/vocab", json::array(), "model.vocab: wanted an object"},
      {"/model/vocab/!", "x", "model.vocab[\"!\"]: wanted an integer"},
      {"/model/vocab/!", -1, "wanted an id from 0"},
      {"/model/vocab/!", 4000000000u, "wanted an id from 0"},
      {"/model/vocab/!", 18446744073709551615u, "wanted an id from 0"},
      {"/model/vocab/!", 7, "two tokens have id 7"},
      {"/model/merges", {{"a", 1}}, "model.merges: wanted an array"},
      {"/model/merges/5", "a", "model.merges[5]"},
      {"/model/merges/5", "a b c", "model.merges[5]"},
      {"/model/merges/5", {"a", 1}, "model.merges[5]"},
      {"/model/merges/5", "zzzz q", "model.merges[5]: \"zzzz\" is not in model.vocab"},
      {"/added_tokens", 1, "added_tokens: wanted an array"},
      {"/added_tokens/3", 1, "added_tokens[3]: wanted an object"},
      {"/added_tokens/3/content", "", "added_tokens[3].content"},
      {"/added_tokens/3/id", nullptr, "added_tokens[3].id"},
      {"/added_tokens/3/id", 40, "\"<think>\" has id 40, which another token has"},
      {"/added_tokens/0/id", 2047, "has id 2047 and id 0"},
      {"/pre_tokenizer/pretokenizers", json::array(), "pretokenizers: wanted a non-empty array"},
  };
  for (const Case& c : cases) {
    const absl::Status status =
        LoadChanged([&](json& root) { root[json::json_pointer(c.pointer)] = c.value; });
    ExpectError(status, absl::StatusCode::kInvalidArgument, c.part);
  }
  ExpectError(LoadChanged([](json& root) { root["model"]["vocab"].erase("Ġ"); }),
              absl::StatusCode::kInvalidArgument, "no token for byte 32");
  ExpectError(LoadChanged([](json& root) { root["model"]["vocab"][""] = 2048; }),
              absl::StatusCode::kInvalidArgument, "an empty token");
}

TEST_F(TokenizerLoad, MergesAsPairsAreTheSame) {
  const auto tokenizer_of = [&](const std::string& text) {
    Write("tokenizer.json", text);
    return Tokenizer::Load(directory_).value();
  };
  json root = json::parse(text_);
  for (json& merge : root["model"]["merges"]) {
    const std::string text = merge;
    const size_t space = text.find(' ');
    merge = {text.substr(0, space), text.substr(space + 1)};
  }
  const std::string sample = "What say you, my lord? I'll to the tower.";
  EXPECT_EQ(tokenizer_of(root.dump())->Encode(sample, Tokenizer::Matching::kPlain),
            tokenizer_of(text_)->Encode(sample, Tokenizer::Matching::kPlain));
}

TEST_F(TokenizerLoad, SentenceTokensComeFromTheConfig) {
  Write("tokenizer.json", text_);
  EXPECT_EQ(Tokenizer::Load(directory_).value()->eos_token_id(), 1);  // no config: by spelling
  Write("tokenizer_config.json",
        R"({"eos_token": "<|EOT|>", "bos_token": {"content": "<think>"}})");
  const auto tokenizer = Tokenizer::Load(directory_).value();
  EXPECT_EQ(tokenizer->eos_token_id(), 2038);
  EXPECT_EQ(tokenizer->bos_token_id(), 2031);
  Write("tokenizer_config.json", R"({"eos_token": "<nowhere>"})");
  ExpectError(Tokenizer::Load(directory_).status(), absl::StatusCode::kInvalidArgument,
              "eos_token \"<nowhere>\" is not in tokenizer.json");
  Write("tokenizer_config.json", R"({"eos_token": 5})");
  ExpectError(Tokenizer::Load(directory_).status(), absl::StatusCode::kInvalidArgument,
              "tokenizer_config.json: eos_token");
  Write("tokenizer_config.json", R"({"eos_token": )");
  ExpectError(Tokenizer::Load(directory_).status(), absl::StatusCode::kDataLoss,
              "tokenizer_config.json (14 bytes; truncated?): not valid JSON");
}

TEST_F(TokenizerLoad, IdsOutOfRangeAreHarmless) {
  Write("tokenizer.json", text_);
  const auto tokenizer = Tokenizer::Load(directory_).value();
  for (const int32_t id : {-1, 2048, 1 << 30}) {
    EXPECT_EQ(tokenizer->TokenBytes(id), "");
    EXPECT_FALSE(tokenizer->IsSpecial(id));
    EXPECT_FALSE(tokenizer->IsAdded(id));
    EXPECT_EQ(tokenizer->Decode({id}, false), "");
  }
  EXPECT_EQ(tokenizer->TokenId("<absent>"), std::nullopt);
}

}  // namespace
}  // namespace shoal
