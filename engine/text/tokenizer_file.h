// SPDX-License-Identifier: Apache-2.0
// `tokenizer.json` as plain data, checked: what the file says, before anything is built from it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace shoal {

struct TokenizerFile {
  struct AddedToken {
    int32_t id = 0;
    std::string content;
    bool special = false;
    bool normalized = false;  // matched only where no un-normalized token was found
  };

  std::vector<std::pair<std::string, int32_t>> vocabulary;  // spelling (byte alphabet), id
  std::vector<std::pair<std::string, std::string>> merges;  // spellings, by rank
  std::vector<AddedToken> added_tokens;
  std::vector<std::string>
      patterns;  // pre-tokenizer steps, each isolating matches (Oniguruma syntax)
};

// Largest id accepted: ten times any vocabulary, and a table of that many ids still fits in any
// memory.
inline constexpr int32_t kMaxTokenId = (1 << 21) - 1;

// Errors as in Tokenizer::Load; every message names the file and the key.
absl::StatusOr<TokenizerFile> ReadTokenizerFile(const std::string& path);

// bos_token and eos_token of a tokenizer_config.json, by content; both absent if there is no such
// file.
struct SentenceTokens {
  std::optional<std::string> bos;
  std::optional<std::string> eos;
};
absl::StatusOr<SentenceTokens> ReadSentenceTokens(const std::string& path);

}  // namespace shoal
