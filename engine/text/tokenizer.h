// SPDX-License-Identifier: Apache-2.0
// Text to token ids and back: byte-level BPE, exactly as Hugging Face's `tokenizers` computes it
// from the `tokenizer.json` of DeepSeek V2, V3, R1, V3.1 and V4. Anything in the file that would
// change the ids and that we do not implement (another model type, a normaliser, an unknown
// pre-tokenizer step) is refused at load, never guessed.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace shoal {

// Immutable after Load; every const method may be called from any thread.
class Tokenizer {
 public:
  // How Encode treats literals such as `<think>` or `<｜User｜>` that occur in the text.
  enum class Matching {
    kAddedTokens,  // they become their ids, leftmost first and longest on a tie: trusted text
    kPlain,        // they are ordinary characters: anything a client wrote
  };

  // Reads `directory`/tokenizer.json and, when present, the bos_token and eos_token of
  // `directory`/tokenizer_config.json. NotFound: no such file. DataLoss: not JSON, or truncated.
  // InvalidArgument: inconsistent (a merge of unknown tokens, two tokens with one id, ...).
  // Unimplemented: a part we do not know, named.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& directory);

  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // The ids of `text`; nothing is prepended or appended. Time grows linearly with the text (times
  // the logarithm of the longest stretch without a word boundary). Bytes that are not UTF-8 count
  // as U+FFFD, one for each maximal ill-formed subpart (Unicode 3.9, as in ToValidUtf8), so Encode
  // never fails and Decode(Encode(s)) == ToValidUtf8(s).
  std::vector<int32_t> Encode(absl::string_view text, Matching matching) const;

  // The text of `ids`: always valid UTF-8 (ill-formed bytes become U+FFFD). `skip_special` leaves
  // out tokens whose `special` flag is set (bos, eos, pad, ...; not `<think>` or `<｜User｜>`). Ids
  // without a token add nothing.
  std::string Decode(absl::Span<const int32_t> ids, bool skip_special) const;

  // Ids are 0 .. vocab_size()-1. May be smaller than the rows of the embedding matrix: rows beyond
  // have no text.
  int32_t vocab_size() const;

  // The id of a token by its spelling in the file: an added token's content, or a vocabulary entry
  // (byte alphabet).
  std::optional<int32_t> TokenId(absl::string_view token) const;

  // The bytes that token `id` stands for; may be part of a code point. Empty for ids without a
  // token or out of range. Valid as long as the tokenizer.
  absl::string_view TokenBytes(int32_t id) const;

  // Whether decoding with skip_special leaves this id out. False out of range.
  bool IsSpecial(int32_t id) const;

  // Whether `id` is one of the file's added tokens (special or not). False out of range.
  bool IsAdded(int32_t id) const;

  // From tokenizer_config.json; else the begin/end of sentence tokens by their DeepSeek spelling,
  // if the file has them.
  std::optional<int32_t> bos_token_id() const;
  std::optional<int32_t> eos_token_id() const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<const Impl> impl);
  std::unique_ptr<const Impl> impl_;
};

}  // namespace shoal
