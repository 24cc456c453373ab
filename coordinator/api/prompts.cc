// SPDX-License-Identifier: Apache-2.0
// See prompts_internal.h.
#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "coordinator/api/api_error.h"
#include "coordinator/api/prompts_internal.h"
#include "engine/base/status_macros.h"
#include "engine/text/chat_json.h"
#include "engine/text/chat_template.h"

namespace shoal {
namespace {

using nlohmann::json;

absl::Status TooLong(absl::string_view param, int64_t max_context, int64_t prompt,
                     std::optional<int64_t> max_tokens) {
  std::string message =
      absl::StrCat("the context is ", max_context, " tokens, but the prompt has ", prompt);
  if (max_tokens) absl::StrAppend(&message, " and ", *max_tokens, " more are asked for");
  return FieldError(param, message, "context_length_exceeded");
}

// Text whose tokens cannot fit is refused before anybody spends time on tokenising it.
absl::Status CheckTextSize(absl::string_view param, size_t bytes, const ApiModel& model) {
  const size_t most = static_cast<size_t>(model.max_context) * model.max_token_bytes;
  if (bytes <= most) return absl::OkStatus();
  return FieldError(param,
                    absl::StrCat("the context is ", model.max_context,
                                 " tokens, but the prompt has ", bytes, " bytes"),
                    "context_length_exceeded");
}

absl::StatusOr<ApiPrompt> IdPrompt(const std::string& param, const json& list,
                                   const ApiModel& model) {
  ApiPrompt prompt;
  if (list.size() > static_cast<size_t>(model.max_context)) {
    return TooLong(param, model.max_context, static_cast<int64_t>(list.size()), std::nullopt);
  }
  for (size_t i = 0; i < list.size(); ++i) {
    const int vocab_size = model.options.model.vocab_size;
    if (!list[i].is_number_integer() || list[i] < 0 || list[i] >= vocab_size) {
      return FieldError(
          absl::StrCat(param, "[", i, "]"),
          absl::StrCat("want a token id from 0 to ", vocab_size - 1, ", found ", Shown(list[i])));
    }
    prompt.ids.push_back(list[i].get<int32_t>());
  }
  return prompt;
}

// "messages[2].content: want ..." names its field; OpenAI's `param` wants it apart.
absl::Status NameField(const absl::Status& status, absl::string_view fallback) {
  if (!absl::IsInvalidArgument(status)) return status;
  const absl::string_view message = status.message();
  const size_t colon = message.find(": ");
  const absl::string_view field = message.substr(0, colon);
  if (colon == absl::string_view::npos || field.empty() ||
      !std::all_of(field.begin(), field.end(), [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || absl::StrContains("_.[]", c);
      })) {
    return FieldError(fallback, message);
  }
  return FieldError(field, message.substr(colon + 2));
}

// What ChatPrompt reads of a message, and what OpenAI's clients send back of an answer.
absl::Status CheckMessageFields(size_t index, const json& message) {
  static const std::set<absl::string_view> kKnown = {
      "role",   "content", "reasoning_content", "tool_calls", "tool_call_id",
      "prefix", "name",    "annotations"};
  static const std::set<absl::string_view> kOnlyEmpty = {"refusal", "audio", "function_call"};
  for (const auto& [name, value] : message.items()) {
    if (kKnown.count(name) > 0) continue;
    const std::string field = absl::StrCat("messages[", index, "].", CutField(name));
    if (kOnlyEmpty.count(name) == 0) return FieldError(field, "unknown field", "unknown_field");
    if (value.empty() || value == "") continue;  // null, [], {} or no text
    return FieldError(field, absl::StrCat("not supported, found ", Shown(value)),
                      "unsupported_value");
  }
  return absl::OkStatus();
}

}  // namespace

ApiModel::ApiModel(const ApiOptions& options, const Tokenizer& tokenizer)
    : options(options),
      tokenizer(tokenizer),
      max_context(options.max_context > 0
                      ? std::min(options.max_context, options.model.max_position_embeddings)
                      : options.model.max_position_embeddings),
      max_token_bytes(1),
      eos_ids(options.model.eos_token_ids) {
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    max_token_bytes = std::max(max_token_bytes, tokenizer.TokenBytes(id).size());
  }
  if (eos_ids.empty() && tokenizer.eos_token_id()) eos_ids.push_back(*tokenizer.eos_token_id());
  bos_id = tokenizer.bos_token_id();
  if (!bos_id && options.model.bos_token_id >= 0) bos_id = options.model.bos_token_id;
}

absl::Status CheckModelName(JsonFields& fields, const ApiOptions& options) {
  std::string name = options.served_model_name;
  fields.String("model", 1024, name);
  SHOAL_RETURN_IF_ERROR(fields.status());
  if (name == options.served_model_name) return absl::OkStatus();
  if (name.size() > 60) name = name.substr(0, 60) + "...";
  return WithErrorCode(
      absl::NotFoundError(absl::StrCat("the model `", name, "` does not exist; this server has `",
                                       options.served_model_name, "`")),
      "model_not_found");
}

absl::StatusOr<ApiPrompt> TextPrompt(const std::string& text, bool add_bos, bool plain,
                                     const ApiModel& model) {
  SHOAL_RETURN_IF_ERROR(CheckTextSize("prompt", text.size(), model));
  ApiPrompt prompt;
  prompt.ids = model.tokenizer.Encode(
      text, plain ? Tokenizer::Matching::kPlain : Tokenizer::Matching::kAddedTokens);
  if (add_bos && model.bos_id && (prompt.ids.empty() || prompt.ids[0] != *model.bos_id)) {
    prompt.ids.insert(prompt.ids.begin(), *model.bos_id);
    prompt.bos_prepended = true;
  }
  return prompt;
}

absl::Status ParsePrompts(JsonFields& fields, const ApiModel& model, ApiRequest& request) {
  const json* value = fields.Find("prompt");
  SHOAL_RETURN_IF_ERROR(fields.status());
  const std::string wanted = "want a string, a list of token ids, or a list of either";
  if (value == nullptr) return FieldError("prompt", absl::StrCat("missing; ", wanted));
  const bool ids = value->is_array() && !value->empty() && (*value)[0].is_number();
  const json list = value->is_string() || ids ? json::array({*value}) : *value;
  if (!list.is_array() || list.empty()) {
    return FieldError("prompt", absl::StrCat(wanted, ", found ", Shown(*value)));
  }
  const ApiLimits& limits = model.options.limits;
  if (list.size() > static_cast<size_t>(limits.max_prompts) ||
      static_cast<int>(list.size()) * request.n > limits.max_choices) {
    return FieldError("prompt", absl::StrCat("want at most ", limits.max_prompts, " prompts and ",
                                             limits.max_choices, " choices, found ", list.size(),
                                             " prompts with n = ", request.n));
  }
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string param =
        value->is_string() || ids ? "prompt" : absl::StrCat("prompt[", i, "]");
    if (list[i].is_string()) {
      SHOAL_ASSIGN_OR_RETURN(ApiPrompt prompt,
                             TextPrompt(list[i].get_ref<const std::string&>(),
                                        model.options.prepend_bos, /*plain=*/false, model));
      request.prompts.push_back(std::move(prompt));
    } else if (list[i].is_array()) {
      SHOAL_ASSIGN_OR_RETURN(ApiPrompt prompt, IdPrompt(param, list[i], model));
      request.prompts.push_back(std::move(prompt));
    } else {
      return FieldError(param, absl::StrCat(wanted, ", found ", Shown(list[i])));
    }
    if (request.prompts.back().ids.empty()) {
      return FieldError(param, "want at least one token, found none");
    }
  }
  return absl::OkStatus();
}

void NoteChatFields(JsonFields& fields) {
  for (const char* name : {"messages", "tools", "tool_choice", "thinking", "chat_template_kwargs",
                           "reasoning_effort", "add_generation_prompt"}) {
    fields.Ignore(name);
  }
  const json* messages = fields.Find("messages");
  if (messages == nullptr || !messages->is_array()) return;  // ChatPrompt says what it wants
  if (messages->empty()) {
    return fields.Fail(FieldError("messages", "wanted a non-empty array, found an empty array"));
  }
  for (size_t i = 0; i < messages->size(); ++i) {
    if ((*messages)[i].is_object()) fields.Fail(CheckMessageFields(i, (*messages)[i]));
  }
}

absl::StatusOr<ApiPrompt> ChatPrompt(absl::string_view body, const ApiModel& model,
                                     ApiRequest& request) {
  if (!model.options.chat_format) {
    return absl::UnimplementedError(
        "this model has no chat template that the server knows; use /v1/completions, or start it "
        "with --chat-format");
  }
  const ChatFormat format = *model.options.chat_format;
  const auto chat = ParseChatBody(body);
  if (!chat.ok()) return NameField(chat.status(), "messages");
  const auto rendered = RenderChat(format, *chat);
  if (!rendered.ok()) return NameField(rendered.status(), "messages");
  SHOAL_RETURN_IF_ERROR(CheckTextSize("messages", rendered->text.size(), model));
  ApiPrompt prompt;
  SHOAL_ASSIGN_OR_RETURN(prompt.ids, EncodePrompt(model.tokenizer, *rendered));
  if (prompt.ids.empty()) return FieldError("messages", "the prompt is empty");
  request.reasons = ChatFormatReasons(format);
  request.starts_in_reasoning = rendered->starts_in_reasoning;
  return prompt;
}

absl::Status FitContext(absl::string_view param, const ApiModel& model,
                        std::optional<int64_t> max_tokens, int64_t fallback, ApiRequest& request) {
  for (ApiPrompt& prompt : request.prompts) {
    const int64_t length = static_cast<int64_t>(prompt.ids.size());
    const int64_t left = model.max_context - length;
    if (max_tokens ? *max_tokens > left : left < (fallback > 0 ? 1 : 0)) {
      return TooLong(param, model.max_context, length, max_tokens);
    }
    prompt.max_tokens = static_cast<int32_t>(max_tokens.value_or(std::min(fallback, left)));
    if (request.sampling.min_tokens > prompt.max_tokens) {
      return FieldError("min_tokens", absl::StrCat("want at most max_tokens, ", prompt.max_tokens,
                                                   ", found ", request.sampling.min_tokens));
    }
  }
  return absl::OkStatus();
}

}  // namespace shoal
