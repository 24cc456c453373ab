// SPDX-License-Identifier: Apache-2.0
#include "engine/text/tokenizer.h"

#include <array>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/text/added_tokens.h"
#include "engine/text/bpe.h"
#include "engine/text/byte_alphabet.h"
#include "engine/text/pre_tokenizer.h"
#include "engine/text/tokenizer_file.h"
#include "engine/text/utf8.h"

namespace shoal {

namespace {

constexpr absl::string_view kDeepSeekBos = "<｜begin▁of▁sentence｜>";
constexpr absl::string_view kDeepSeekEos = "<｜end▁of▁sentence｜>";

struct Token {
  std::string bytes;     // what it decodes to; empty: no token has this id
  bool special = false;  // left out by skip_special
  bool added = false;
};

}  // namespace

struct Tokenizer::Impl {
  std::vector<Token> tokens;  // by id
  absl::flat_hash_map<std::string, int32_t>
      spellings;  // vocabulary and added tokens, as the file writes them
  absl::flat_hash_map<absl::string_view, int32_t>
      whole;                     // bytes (owned by `tokens`) of pieces that merge into one id
  AddedTokens raw_added;         // looked for in the whole text,
  AddedTokens normalized_added;  // and then, in what is left, these
  std::unique_ptr<PreTokenizer> pre_tokenizer;
  std::unique_ptr<BytePairMerger> merger;
  std::optional<int32_t> bos;
  std::optional<int32_t> eos;

  absl::Status AddVocabulary(const TokenizerFile& file);
  absl::Status AddMerges(const TokenizerFile& file);
  absl::Status AddAddedTokens(const TokenizerFile& file);
  absl::Status AddSentenceTokens(const SentenceTokens& names);
  void FindWholePieces(const TokenizerFile& file);

  Token& At(int32_t id) {
    if (static_cast<size_t>(id) >= tokens.size()) tokens.resize(static_cast<size_t>(id) + 1);
    return tokens[id];
  }
  const Token* Find(int32_t id) const {
    return id >= 0 && static_cast<size_t>(id) < tokens.size() ? &tokens[id] : nullptr;
  }

  void EncodePlain(absl::string_view text, std::vector<int32_t>& ids) const;
  template <typename Rest>
  static void SplitAt(const AddedTokens& added, absl::string_view text, std::vector<int32_t>& ids,
                      Rest rest);
};

absl::Status Tokenizer::Impl::AddVocabulary(const TokenizerFile& file) {
  for (const auto& [spelling, id] : file.vocabulary) {
    Token& token = At(id);
    if (!token.bytes.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("model.vocab: two tokens have id ", id, ", one is \"", spelling, "\""));
    }
    // A spelling outside the byte alphabet stands for itself; the special tokens in V3's vocabulary
    // are such.
    token.bytes = BytesOfSpelling(spelling).value_or(spelling);
    spellings.emplace(spelling, id);
  }
  return absl::OkStatus();
}

absl::Status Tokenizer::Impl::AddMerges(const TokenizerFile& file) {
  std::array<int32_t, 256> byte_ids;
  for (int byte = 0; byte < 256; ++byte) {
    const auto it = spellings.find(SpellByte(static_cast<uint8_t>(byte)));
    byte_ids[byte] = it == spellings.end() ? -1 : it->second;
    const bool occurs_in_utf8 = byte < 0xC0 || (byte > 0xC1 && byte < 0xF5);
    if (byte_ids[byte] < 0 && occurs_in_utf8) {
      return absl::InvalidArgumentError(absl::StrCat("model.vocab: no token for byte ", byte,
                                                     " (\"", SpellByte(static_cast<uint8_t>(byte)),
                                                     "\"), so not every text has ids"));
    }
  }
  merger = std::make_unique<BytePairMerger>(byte_ids);
  for (size_t i = 0; i < file.merges.size(); ++i) {
    const auto& [left, right] = file.merges[i];
    int32_t ids[3];
    const std::string merged = absl::StrCat(left, right);
    const std::string* const spelled[3] = {&left, &right, &merged};
    for (int k = 0; k < 3; ++k) {
      const auto it = spellings.find(*spelled[k]);
      if (it == spellings.end()) {
        return absl::InvalidArgumentError(
            absl::StrCat("model.merges[", i, "]: \"", *spelled[k], "\" is not in model.vocab"));
      }
      ids[k] = it->second;
    }
    merger->AddMerge(ids[0], ids[1], ids[2]);
  }
  return absl::OkStatus();
}

absl::Status Tokenizer::Impl::AddAddedTokens(const TokenizerFile& file) {
  for (const TokenizerFile::AddedToken& added : file.added_tokens) {
    Token& token = At(added.id);
    const auto [it, is_new] = spellings.emplace(added.content, added.id);
    if (it->second != added.id || (is_new && !token.bytes.empty())) {
      return absl::InvalidArgumentError(absl::StrCat(
          "added_tokens: \"", added.content, "\" has id ", added.id,
          is_new ? ", which another token has" : absl::StrCat(" and id ", it->second)));
    }
    token.bytes = added.content;
    token.special = added.special;
    token.added = true;
    (added.normalized ? normalized_added : raw_added).Add(added.content, added.id);
  }
  return absl::OkStatus();
}

absl::Status Tokenizer::Impl::AddSentenceTokens(const SentenceTokens& names) {
  const auto find = [&](const std::optional<std::string>& name, absl::string_view key,
                        absl::string_view by_default, std::optional<int32_t>& id) -> absl::Status {
    const auto it = spellings.find(name.value_or(std::string(by_default)));
    if (it != spellings.end()) {
      id = it->second;
    } else if (name.has_value()) {
      return absl::InvalidArgumentError(absl::StrCat("tokenizer_config.json: ", key, " \"", *name,
                                                     "\" is not in tokenizer.json"));
    }
    return absl::OkStatus();
  };
  SHOAL_RETURN_IF_ERROR(find(names.bos, "bos_token", kDeepSeekBos, bos));
  return find(names.eos, "eos_token", kDeepSeekEos, eos);
}

// Most pieces of ordinary text are one token. Those that merging turns into exactly one id, which
// is nearly the whole vocabulary, are looked up instead.
void Tokenizer::Impl::FindWholePieces(const TokenizerFile& file) {
  std::vector<int32_t> ids;
  for (const auto& [spelling, id] : file.vocabulary) {
    ids.clear();
    merger->Append(tokens[id].bytes, ids);
    if (ids.size() == 1) whole.emplace(tokens[id].bytes, ids[0]);
  }
}

void Tokenizer::Impl::EncodePlain(absl::string_view text, std::vector<int32_t>& ids) const {
  for (const absl::string_view piece : pre_tokenizer->Split(text)) {
    const auto it = whole.find(piece);
    if (it != whole.end()) {
      ids.push_back(it->second);
    } else {
      merger->Append(piece, ids);
    }
  }
}

// Appends the ids of the tokens of `added` found in `text`, and calls rest(stretch) for what lies
// between.
template <typename Rest>
void Tokenizer::Impl::SplitAt(const AddedTokens& added, absl::string_view text,
                              std::vector<int32_t>& ids, Rest rest) {
  size_t done = 0;
  while (done < text.size()) {
    const AddedTokens::Match match = added.Find(text, done);
    if (match.begin > done) rest(text.substr(done, match.begin - done));
    if (match.id >= 0) ids.push_back(match.id);
    done = match.begin + match.size;
  }
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::string& directory) {
  const std::string path = absl::StrCat(directory, "/tokenizer.json");
  SHOAL_ASSIGN_OR_RETURN(const TokenizerFile file, ReadTokenizerFile(path));
  SHOAL_ASSIGN_OR_RETURN(const SentenceTokens names,
                         ReadSentenceTokens(absl::StrCat(directory, "/tokenizer_config.json")));
  auto impl = std::make_unique<Impl>();
  const auto build = [&]() -> absl::Status {
    SHOAL_RETURN_IF_ERROR(impl->AddVocabulary(file));
    SHOAL_RETURN_IF_ERROR(impl->AddMerges(file));
    SHOAL_RETURN_IF_ERROR(impl->AddAddedTokens(file));
    impl->FindWholePieces(file);
    SHOAL_RETURN_IF_ERROR(impl->AddSentenceTokens(names));
    SHOAL_ASSIGN_OR_RETURN(impl->pre_tokenizer, PreTokenizer::Create(file.patterns));
    return absl::OkStatus();
  };
  if (const absl::Status status = build(); !status.ok()) {
    return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
  }
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(impl)));
}

Tokenizer::Tokenizer(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;

std::vector<int32_t> Tokenizer::Encode(absl::string_view text, Matching matching) const {
  std::string repaired;
  if (!IsValidUtf8(text)) {
    repaired = ToValidUtf8(text);
    text = repaired;
  }
  std::vector<int32_t> ids;
  if (matching == Matching::kPlain) {
    impl_->EncodePlain(text, ids);
    return ids;
  }
  Impl::SplitAt(impl_->raw_added, text, ids, [&](absl::string_view stretch) {
    Impl::SplitAt(impl_->normalized_added, stretch, ids,
                  [&](absl::string_view plain) { impl_->EncodePlain(plain, ids); });
  });
  return ids;
}

std::string Tokenizer::Decode(absl::Span<const int32_t> ids, bool skip_special) const {
  std::string bytes;
  for (const int32_t id : ids) {
    const Token* token = impl_->Find(id);
    if (token != nullptr && !(skip_special && token->special)) bytes.append(token->bytes);
  }
  return ToValidUtf8(bytes);
}

int32_t Tokenizer::vocab_size() const { return static_cast<int32_t>(impl_->tokens.size()); }

std::optional<int32_t> Tokenizer::TokenId(absl::string_view token) const {
  const auto it = impl_->spellings.find(token);
  if (it == impl_->spellings.end()) return std::nullopt;
  return it->second;
}

absl::string_view Tokenizer::TokenBytes(int32_t id) const {
  const Token* token = impl_->Find(id);
  return token == nullptr ? absl::string_view() : absl::string_view(token->bytes);
}

bool Tokenizer::IsSpecial(int32_t id) const {
  const Token* token = impl_->Find(id);
  return token != nullptr && token->special;
}

bool Tokenizer::IsAdded(int32_t id) const {
  const Token* token = impl_->Find(id);
  return token != nullptr && token->added;
}

std::optional<int32_t> Tokenizer::bos_token_id() const { return impl_->bos; }
std::optional<int32_t> Tokenizer::eos_token_id() const { return impl_->eos; }

}  // namespace shoal
