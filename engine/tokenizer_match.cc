// SPDX-License-Identifier: Apache-2.0
#include "engine/tokenizer_match.h"

#include <algorithm>
#include <cstdint>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace shoal {
namespace {

// One row of the embedding in so many may lack a token.
constexpr int32_t kRowsPerPadding = 32;

std::string Named(const Tokenizer& tokenizer, int32_t id) {
  const absl::string_view bytes = tokenizer.TokenBytes(id);
  return bytes.empty() ? absl::StrCat(id, ", which has no token")
                       : absl::StrCat(id, " (", tokenizer.Decode({&id, 1}, false), ")");
}

}  // namespace

absl::Status CheckTokenizerMatches(const std::string& directory, const ModelConfig& config,
                                   const Tokenizer& tokenizer) {
  const auto fail = [&](const auto&... what) {
    return absl::InvalidArgumentError(
        absl::StrCat(directory, ": ", what..., ": they do not match"));
  };
  if (tokenizer.vocab_size() > config.vocab_size) {
    return fail("tokenizer.json has ids up to ", tokenizer.vocab_size() - 1,
                ", config.json's vocab_size is ", config.vocab_size);
  }
  int32_t tokens = 0;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    tokens += tokenizer.TokenBytes(id).empty() ? 0 : 1;
  }
  const int32_t least = config.vocab_size - config.vocab_size / kRowsPerPadding;
  if (tokens < least) {
    return fail("tokenizer.json has ", tokens, " tokens, config.json's vocab_size is ",
                config.vocab_size, ": want at least ", least);
  }
  const std::optional<int32_t> bos = tokenizer.bos_token_id();
  if (config.bos_token_id >= 0 && bos.value_or(config.bos_token_id) != config.bos_token_id) {
    return fail("config.json's bos_token_id is ", Named(tokenizer, config.bos_token_id),
                ", the tokenizer's bos_token ", Named(tokenizer, *bos));
  }
  for (const int32_t id : config.eos_token_ids) {
    if (tokenizer.TokenBytes(id).empty()) {
      return fail("eos_token_id is ", Named(tokenizer, id));
    }
  }
  if (config.bos_token_id >= 0 && tokenizer.TokenBytes(config.bos_token_id).empty()) {
    return fail("bos_token_id is ", Named(tokenizer, config.bos_token_id));
  }
  const std::vector<int32_t>& ends = config.eos_token_ids;
  const std::optional<int32_t> eos = tokenizer.eos_token_id();
  if (eos.has_value() && !ends.empty() && std::find(ends.begin(), ends.end(), *eos) == ends.end()) {
    return fail("eos_token_id is ",
                absl::StrJoin(ends, ", ",
                              [&](std::string* out, int32_t id) {
                                absl::StrAppend(out, Named(tokenizer, id));
                              }),
                ", the tokenizer's eos_token ", Named(tokenizer, *eos));
  }
  return absl::OkStatus();
}

}  // namespace shoal
