// SPDX-License-Identifier: Apache-2.0
// Where the text goldens find their fixtures and tokenizers. The tiny tokenizer lies beside the
// fixtures. The published ones (V2, V3, V4) are megabytes each: tests/golden/fetch_tokenizers
// downloads them, and the environment variable SHOAL_TOKENIZERS names the folder that then holds
// v2/, v3/ and v4/.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "engine/text/tokenizer.h"

namespace shoal::golden {

inline std::string TextFolder() { return std::string(SHOAL_SOURCE_DIR) + "/tests/golden/text"; }

// The lines of tests/golden/text/`name`.jsonl; a fixture that cannot be read fails the test.
inline std::vector<nlohmann::ordered_json> ReadFixture(const std::string& name) {
  const std::string path = TextFolder() + "/" + name + ".jsonl";
  std::ifstream in(path);
  EXPECT_TRUE(in) << path;
  std::vector<nlohmann::ordered_json> rows;
  for (std::string line; std::getline(in, line);)
    rows.push_back(nlohmann::ordered_json::parse(line));
  EXPECT_FALSE(rows.empty()) << path;
  return rows;
}

// The directory of tokenizer "tiny", "v2", "v3" or "v4"; nullopt when the published ones were not
// fetched.
inline std::optional<std::string> TokenizerDirectory(const std::string& name) {
  if (name == "tiny") return TextFolder() + "/tiny-tokenizer";
  const char* folder = std::getenv("SHOAL_TOKENIZERS");
  if (folder == nullptr || *folder == '\0') return std::nullopt;
  return std::string(folder) + "/" + name;
}

// The loaded tokenizer, kept for the whole program; null when it was not fetched.
inline const Tokenizer* LoadedTokenizer(const std::string& name) {
  static std::map<std::string, std::unique_ptr<Tokenizer>> loaded;
  const std::optional<std::string> directory = TokenizerDirectory(name);
  if (!directory.has_value()) return nullptr;
  std::unique_ptr<Tokenizer>& tokenizer = loaded[name];
  if (tokenizer == nullptr) {
    absl::StatusOr<std::unique_ptr<Tokenizer>> result = Tokenizer::Load(*directory);
    EXPECT_TRUE(result.ok()) << result.status();
    if (result.ok()) tokenizer = *std::move(result);
  }
  return tokenizer.get();
}

}  // namespace shoal::golden

// Declares `tokenizer`, or skips the test when the published tokenizers were not fetched.
#define SHOAL_TOKENIZER_OR_SKIP(tokenizer, name)                                          \
  if (!::shoal::golden::TokenizerDirectory(name).has_value()) {                           \
    GTEST_SKIP() << "SHOAL_TOKENIZERS is not set; tests/golden/fetch_tokenizers fetches " \
                 << (name);                                                               \
  }                                                                                       \
  const ::shoal::Tokenizer* tokenizer = ::shoal::golden::LoadedTokenizer(name);           \
  ASSERT_NE(tokenizer, nullptr)
