// SPDX-License-Identifier: Apache-2.0
#include "engine/text/tokenizer_file.h"

#include <nlohmann/json.hpp>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "engine/base/status_macros.h"
#include "engine/text/json_file_internal.h"

namespace shoal {

namespace {

using json = nlohmann::ordered_json;

// Rust's char::is_numeric, which Digits asks: \p{N} with two ranges of Unicode 17.
constexpr absl::string_view kDigit = "[\\p{N}\U00011DE0-\U00011DE9\U00016FF4-\U00016FF6]";

absl::Status Invalid(absl::string_view key, absl::string_view wanted, const json& found) {
  return absl::InvalidArgumentError(
      absl::StrCat(key, ": wanted ", wanted, ", found ", found.type_name()));
}

absl::Status Unknown(absl::string_view key, const json& found) {
  constexpr size_t kMaxShown = 120;
  std::string text = found.dump(-1, ' ', false, json::error_handler_t::replace);
  if (text.size() > kMaxShown) text = absl::StrCat(text.substr(0, kMaxShown), "...");
  return absl::UnimplementedError(absl::StrCat(key, ": ", text, " is not supported"));
}

// The member, or null.
const json& Get(const json& object, const char* key) {
  static const json null;
  const auto it = object.find(key);
  return it == object.end() ? null : *it;
}

// Whether an option has the one value we implement, or says nothing.
bool IsUnsetOr(const json& value, const json& wanted) { return value.is_null() || value == wanted; }

absl::StatusOr<int32_t> ReadId(absl::string_view key, const json& value) {
  if (!value.is_number_integer()) return Invalid(key, "an integer id", value);
  // Unsigned values above the range of int64 turn negative here, and are refused with the others.
  const int64_t id = value.get<int64_t>();
  if (id < 0 || id > kMaxTokenId) {
    return absl::InvalidArgumentError(
        absl::StrCat(key, ": wanted an id from 0 to ", kMaxTokenId, ", found ", value.dump()));
  }
  return static_cast<int32_t>(id);
}

absl::Status ReadPreTokenizerStep(const std::string& key, const json& step, TokenizerFile& file) {
  if (!step.is_object()) return Invalid(key, "an object", step);
  const json& type = Get(step, "type");
  if (type == "Split") {
    const json& pattern = Get(step, "pattern");
    const json& regex = pattern.is_object() ? Get(pattern, "Regex") : pattern;
    if (!regex.is_string() || Get(step, "behavior") != "Isolated" ||
        !IsUnsetOr(Get(step, "invert"), false)) {
      return Unknown(key, step);
    }
    file.patterns.push_back(regex.get<std::string>());
    return absl::OkStatus();
  }
  if (type == "Digits") {
    const bool individual = Get(step, "individual_digits") == true;
    file.patterns.push_back(absl::StrCat(kDigit, individual ? "" : "+"));
    return absl::OkStatus();
  }
  return Unknown(key, step);
}

// The sequence must end in ByteLevel without its own regex, which spells bytes in the vocabulary's
// alphabet.
absl::Status ReadPreTokenizer(const json& pre_tokenizer, TokenizerFile& file) {
  if (!pre_tokenizer.is_object()) return Unknown("pre_tokenizer", pre_tokenizer);
  std::vector<json> steps = {pre_tokenizer};
  if (Get(pre_tokenizer, "type") == "Sequence") {
    const json& list = Get(pre_tokenizer, "pretokenizers");
    if (!list.is_array() || list.empty()) {
      return Invalid("pre_tokenizer.pretokenizers", "a non-empty array", list);
    }
    steps = list.get<std::vector<json>>();
  }
  for (size_t i = 0; i + 1 < steps.size(); ++i) {
    SHOAL_RETURN_IF_ERROR(
        ReadPreTokenizerStep(absl::StrCat("pre_tokenizer.pretokenizers[", i, "]"), steps[i], file));
  }
  const json& last = steps.back();
  if (!last.is_object() || Get(last, "type") != "ByteLevel" ||
      Get(last, "add_prefix_space") != false || Get(last, "use_regex") != false) {
    return Unknown("pre_tokenizer: the last step", last);
  }
  return absl::OkStatus();
}

absl::Status ReadMerge(const std::string& key, const json& merge, TokenizerFile& file) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    file.merges.emplace_back(merge[0].get<std::string>(), merge[1].get<std::string>());
    return absl::OkStatus();
  }
  if (!merge.is_string()) return Invalid(key, "\"left right\" or [left, right]", merge);
  const std::string& text = merge.get_ref<const std::string&>();
  const size_t space = text.find(' ');
  if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat(key, ": wanted two tokens and a space, found \"", text, "\""));
  }
  file.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
  return absl::OkStatus();
}

absl::Status ReadModel(const json& model, TokenizerFile& file) {
  if (!model.is_object()) return Invalid("model", "an object", model);
  // Old files leave the type out; the vocabulary and merges then tell.
  if (!IsUnsetOr(Get(model, "type"), "BPE")) return Unknown("model.type", Get(model, "type"));
  const std::pair<const char*, json> options[] = {
      {"dropout", nullptr},       {"unk_token", nullptr}, {"continuing_subword_prefix", ""},
      {"end_of_word_suffix", ""}, {"fuse_unk", false},    {"byte_fallback", false},
      {"ignore_merges", false}};
  for (const auto& [option, wanted] : options) {
    if (!IsUnsetOr(Get(model, option), wanted)) {
      return Unknown(absl::StrCat("model.", option), Get(model, option));
    }
  }
  const json& vocabulary = Get(model, "vocab");
  if (!vocabulary.is_object()) return Invalid("model.vocab", "an object", vocabulary);
  file.vocabulary.reserve(vocabulary.size());
  for (const auto& [token, value] : vocabulary.items()) {
    if (token.empty()) return absl::InvalidArgumentError("model.vocab: an empty token");
    SHOAL_ASSIGN_OR_RETURN(const int32_t id,
                           ReadId(absl::StrCat("model.vocab[\"", token, "\"]"), value));
    file.vocabulary.emplace_back(token, id);
  }
  const json& merges = Get(model, "merges");
  if (!merges.is_array()) return Invalid("model.merges", "an array", merges);
  file.merges.reserve(merges.size());
  for (size_t i = 0; i < merges.size(); ++i) {
    SHOAL_RETURN_IF_ERROR(ReadMerge(absl::StrCat("model.merges[", i, "]"), merges[i], file));
  }
  return absl::OkStatus();
}

absl::Status ReadAddedTokens(const json& tokens, TokenizerFile& file) {
  if (tokens.is_null()) return absl::OkStatus();
  if (!tokens.is_array()) return Invalid("added_tokens", "an array", tokens);
  for (size_t i = 0; i < tokens.size(); ++i) {
    const std::string key = absl::StrCat("added_tokens[", i, "]");
    const json& token = tokens[i];
    if (!token.is_object()) return Invalid(key, "an object", token);
    const json& content = Get(token, "content");
    if (!content.is_string() || content.get_ref<const std::string&>().empty()) {
      return Invalid(absl::StrCat(key, ".content"), "a non-empty string", content);
    }
    for (const char* option : {"single_word", "lstrip", "rstrip"}) {
      if (!IsUnsetOr(Get(token, option), false)) {
        return Unknown(absl::StrCat(key, ".", option), Get(token, option));
      }
    }
    TokenizerFile::AddedToken added;
    SHOAL_ASSIGN_OR_RETURN(added.id, ReadId(absl::StrCat(key, ".id"), Get(token, "id")));
    added.content = content.get<std::string>();
    added.special = Get(token, "special") == true;
    added.normalized = Get(token, "normalized") == true;
    file.added_tokens.push_back(std::move(added));
  }
  return absl::OkStatus();
}

// `truncation` and `padding` are left unread: they are settings of the program that saved the file,
// and every caller resets them. `post_processor` only adds tokens around a text, which Encode never
// does.
absl::StatusOr<TokenizerFile> Read(const json& root) {
  const json& normalizer = Get(root, "normalizer");
  const bool nothing_to_normalize =
      normalizer.is_null() || (normalizer.is_object() && Get(normalizer, "type") == "Sequence" &&
                               Get(normalizer, "normalizers") == json::array());
  if (!nothing_to_normalize) return Unknown("normalizer", normalizer);
  const json& decoder = Get(root, "decoder");
  if (!decoder.is_object() || Get(decoder, "type") != "ByteLevel") {
    return Unknown("decoder", decoder);
  }
  TokenizerFile file;
  SHOAL_RETURN_IF_ERROR(ReadModel(Get(root, "model"), file));
  SHOAL_RETURN_IF_ERROR(ReadAddedTokens(Get(root, "added_tokens"), file));
  SHOAL_RETURN_IF_ERROR(ReadPreTokenizer(Get(root, "pre_tokenizer"), file));
  return file;
}

absl::StatusOr<std::optional<std::string>> ReadTokenContent(const json& root, const char* key) {
  const json& token = Get(root, key);
  if (token.is_null()) return std::nullopt;
  const json& content = token.is_object() ? Get(token, "content") : token;
  if (!content.is_string())
    return Invalid(key, "a string, or an object with a string `content`", token);
  return content.get<std::string>();
}

}  // namespace

absl::StatusOr<TokenizerFile> ReadTokenizerFile(const std::string& path) {
  SHOAL_ASSIGN_OR_RETURN(const json root, ReadJsonObject(path));
  absl::StatusOr<TokenizerFile> file = Read(root);
  if (!file.ok()) {
    return absl::Status(file.status().code(), absl::StrCat(path, ": ", file.status().message()));
  }
  return file;
}

absl::StatusOr<SentenceTokens> ReadSentenceTokens(const std::string& path) {
  absl::StatusOr<json> root = ReadJsonObject(path);
  if (absl::IsNotFound(root.status())) return SentenceTokens{};
  if (!root.ok()) return root.status();
  SentenceTokens tokens;
  for (const auto& [key, token] :
       {std::pair("bos_token", &tokens.bos), {"eos_token", &tokens.eos}}) {
    absl::StatusOr<std::optional<std::string>> content = ReadTokenContent(*root, key);
    if (!content.ok()) {
      return absl::Status(content.status().code(),
                          absl::StrCat(path, ": ", content.status().message()));
    }
    *token = *std::move(content);
  }
  return tokens;
}

}  // namespace shoal
