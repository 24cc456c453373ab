// SPDX-License-Identifier: Apache-2.0
// See openai_request.h.
#include "coordinator/api/openai_request.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "coordinator/api/api_error.h"
#include "coordinator/api/json_fields_internal.h"
#include "engine/base/status_macros.h"
#include "engine/text/chat_json.h"

namespace shoal {
namespace {

using nlohmann::json;

constexpr int64_t kInt32Max = std::numeric_limits<int32_t>::max();
constexpr int64_t kInt64Max = std::numeric_limits<int64_t>::max();
constexpr int kMaxTopLogprobs = 20;
constexpr int32_t kDefaultCompletionTokens = 16;  // OpenAI's

void ParseLogitBias(JsonFields& fields, int vocab_size, SamplingParams& sampling) {
  const json* value = fields.Find("logit_bias");
  if (value == nullptr) return;
  if (!value->is_object()) {
    return fields.Fail(FieldError(
        "logit_bias", absl::StrCat("want an object {token id: bias}, found ", Shown(*value))));
  }
  for (const auto& [key, bias] : value->items()) {
    int32_t id = -1;
    if (!absl::SimpleAtoi(key, &id) || id < 0 || id >= vocab_size) {
      return fields.Fail(FieldError(
          "logit_bias",
          absl::StrCat("want token ids from 0 to ", vocab_size - 1, ", found ", Shown(key))));
    }
    const double number = bias.is_number() ? bias.get<double>() : 1e9;
    if (!(number >= -100 && number <= 100)) {
      return fields.Fail(
          FieldError(absl::StrCat("logit_bias.", id),
                     absl::StrCat("want a number from -100 to 100, found ", Shown(bias))));
    }
    sampling.logit_bias.emplace_back(id, static_cast<float>(number));
  }
  std::sort(sampling.logit_bias.begin(), sampling.logit_bias.end());
}

void ParseStop(JsonFields& fields, const ApiLimits& limits, std::vector<std::string>& stop) {
  const json* value = fields.Find("stop");
  if (value == nullptr) return;
  const json list = value->is_array() ? *value : json::array({*value});
  if (list.size() > static_cast<size_t>(limits.max_stop_strings)) {
    return fields.Fail(FieldError("stop", absl::StrCat("want at most ", limits.max_stop_strings,
                                                       " strings, found ", list.size())));
  }
  for (const json& text : list) {
    if (!text.is_string() || text.get_ref<const std::string&>().empty() ||
        text.get_ref<const std::string&>().size() > limits.max_stop_bytes) {
      return fields.Fail(
          FieldError("stop", absl::StrCat("want a string, or a list of strings, of 1 to ",
                                          limits.max_stop_bytes, " bytes, found ", Shown(text))));
    }
    stop.push_back(text.get<std::string>());
  }
}

void ParseStreamOptions(JsonFields& fields, ApiRequest& request) {
  fields.Bool("stream", request.stream);
  const json* value = fields.Find("stream_options");
  if (value == nullptr) return;
  if (!value->is_object()) {
    return fields.Fail(
        FieldError("stream_options", absl::StrCat("want an object, found ", Shown(*value))));
  }
  if (!request.stream) {
    return fields.Fail(FieldError("stream_options", "only allowed when stream is true"));
  }
  JsonFields inner(*value);
  inner.Bool("include_usage", request.include_usage);
  inner.Ignore("include_obfuscation");
  if (const absl::Status status = inner.Finish(); !status.ok()) {
    fields.Fail(FieldError("stream_options", status.message()));
  }
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

// Everything that completions and chat have in common. `max_tokens` stays empty if not given.
void ParseCommonFields(JsonFields& fields, const ApiModel& model, ApiRequest& request,
                       std::optional<int64_t>& max_tokens) {
  const ApiLimits& limits = model.options.limits;
  const SamplingDefaults& defaults = model.options.sampling;
  SamplingParams& sampling = request.sampling;
  sampling.temperature = defaults.temperature;
  sampling.top_p = defaults.top_p;
  sampling.top_k = defaults.top_k;
  sampling.min_p = defaults.min_p;
  sampling.repetition_penalty = defaults.repetition_penalty;

  fields.Int("n", 1, limits.max_n, request.n);
  fields.Only("best_of", {request.n}, "want it equal to n: only n choices are generated");
  fields.Number("temperature", 0, 2, sampling.temperature);
  fields.Number("top_p", 0, 1, sampling.top_p);
  // Nothing but the most probable token lies within the first 0 % of the probability.
  sampling.top_p = std::max(sampling.top_p, std::numeric_limits<float>::min());
  fields.Int("top_k", -1, kInt32Max, sampling.top_k);
  sampling.top_k = std::max(sampling.top_k, 0);
  fields.Number("min_p", 0, 1, sampling.min_p);
  fields.Number("presence_penalty", -2, 2, sampling.presence_penalty);
  fields.Number("frequency_penalty", -2, 2, sampling.frequency_penalty);
  fields.Number("repetition_penalty", 0, 10, sampling.repetition_penalty, /*open=*/true);
  ParseLogitBias(fields, model.options.model.vocab_size, sampling);

  std::optional<int64_t> seed;
  fields.Int("seed", -kInt64Max - 1, kInt64Max, seed);
  request.has_seed = seed.has_value();
  sampling.seed = static_cast<uint64_t>(seed.value_or(0));

  const int64_t least = request.chat ? 1 : 0;
  std::optional<int64_t> max_completion_tokens;
  fields.Int("max_tokens", least, kInt32Max, max_tokens);
  fields.Int("max_completion_tokens", least, kInt32Max, max_completion_tokens);
  if (max_tokens && max_completion_tokens && *max_tokens != *max_completion_tokens) {
    fields.Fail(FieldError("max_tokens",
                           absl::StrCat("differs from max_completion_tokens, its other name: ",
                                        *max_tokens, " and ", *max_completion_tokens)));
  }
  if (!max_tokens) max_tokens = max_completion_tokens;
  fields.Int("min_tokens", 0, kInt32Max, sampling.min_tokens);

  bool ignore_eos = false;
  fields.Bool("ignore_eos", ignore_eos);
  fields.Ints("stop_token_ids", 0, model.options.model.vocab_size - 1, 128, sampling.end_token_ids);
  if (!ignore_eos) {
    sampling.end_token_ids.insert(sampling.end_token_ids.end(), model.eos_ids.begin(),
                                  model.eos_ids.end());
  }
  ParseStop(fields, limits, request.stop);
  ParseStreamOptions(fields, request);
  fields.String("user", 1024, request.user);
  fields.Int("priority", -kInt32Max, kInt32Max, request.priority);

  fields.Only("skip_special_tokens", {true}, "special tokens are always left out of the text");
  for (const char* harmless : {"metadata", "store", "service_tier", "safety_identifier",
                               "prompt_cache_key", "prompt_cache_retention"}) {
    fields.Ignore(harmless);
  }
}

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

// Gives each prompt its max_tokens: what the client asked for, else `fallback` or what is left of
// the context, whichever is less.
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

// A string, a list of ids, or a list of either.
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

// Renders and tokenises a chat body. Sets the reasoning fields too.
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

// The fields that ParseChatBody reads.
void NoteChatFields(JsonFields& fields) {
  for (const char* name : {"messages", "tools", "tool_choice", "thinking", "chat_template_kwargs",
                           "reasoning_effort", "add_generation_prompt"}) {
    fields.Ignore(name);
  }
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

absl::StatusOr<ApiRequest> ParseCompletionRequest(absl::string_view body, const ApiModel& model) {
  SHOAL_ASSIGN_OR_RETURN(const json object, ParseJsonObject(body));
  JsonFields fields(object);
  SHOAL_RETURN_IF_ERROR(CheckModelName(fields, model.options));
  ApiRequest request;
  std::optional<int64_t> max_tokens;
  ParseCommonFields(fields, model, request, max_tokens);
  fields.Bool("echo", request.echo);
  fields.Int("logprobs", 0, kMaxTopLogprobs, request.sampling.top_logprobs);
  request.sampling.prompt_logprobs = request.echo && request.sampling.top_logprobs >= 0;
  fields.Only("suffix", {""}, "text before a suffix cannot be written by this server");
  fields.Find("prompt");
  SHOAL_RETURN_IF_ERROR(fields.Finish());
  SHOAL_RETURN_IF_ERROR(ParsePrompts(fields, model, request));
  SHOAL_RETURN_IF_ERROR(FitContext("prompt", model, max_tokens, kDefaultCompletionTokens, request));
  return request;
}

absl::StatusOr<ApiRequest> ParseChatRequest(absl::string_view body, const ApiModel& model) {
  SHOAL_ASSIGN_OR_RETURN(const json object, ParseJsonObject(body));
  JsonFields fields(object);
  SHOAL_RETURN_IF_ERROR(CheckModelName(fields, model.options));
  ApiRequest request;
  request.chat = true;
  std::optional<int64_t> max_tokens;
  ParseCommonFields(fields, model, request, max_tokens);

  bool logprobs = false;
  std::optional<int64_t> top_logprobs;
  fields.Bool("logprobs", logprobs);
  fields.Int("top_logprobs", 0, kMaxTopLogprobs, top_logprobs);
  if (top_logprobs.value_or(0) > 0 && !logprobs) {
    fields.Fail(FieldError("top_logprobs", "only allowed when logprobs is true"));
  }
  if (logprobs) request.sampling.top_logprobs = static_cast<int32_t>(top_logprobs.value_or(0));

  fields.Only("response_format", {json::object({{"type", "text"}})},
              "only {\"type\": \"text\"} is supported");
  fields.Only("modalities", {json::array({"text"})}, "only [\"text\"] is supported");
  fields.Only("functions", {json::array()}, "not supported");
  fields.Only("function_call", {"none"}, "not supported");
  fields.Ignore("parallel_tool_calls");
  NoteChatFields(fields);
  if (const json* tools = fields.Find("tools"); tools != nullptr && *tools != json::array()) {
    const json* choice = fields.Find("tool_choice");
    if (choice == nullptr || *choice != "none") {
      fields.Fail(FieldError("tools",
                             "tool calls are not parsed from the model's output yet; leave tools "
                             "out, or send \"tool_choice\": \"none\"",
                             "unsupported_value"));
    }
  }
  SHOAL_RETURN_IF_ERROR(fields.Finish());
  SHOAL_ASSIGN_OR_RETURN(ApiPrompt prompt, ChatPrompt(body, model, request));
  request.prompts.push_back(std::move(prompt));
  SHOAL_RETURN_IF_ERROR(FitContext("messages", model, max_tokens, model.max_context, request));
  return request;
}

absl::StatusOr<std::string> Tokenize(absl::string_view body, const ApiModel& model) {
  SHOAL_ASSIGN_OR_RETURN(const json object, ParseJsonObject(body));
  JsonFields fields(object);
  SHOAL_RETURN_IF_ERROR(CheckModelName(fields, model.options));
  bool add_bos = model.options.prepend_bos;
  bool plain = false;
  fields.Bool("add_special_tokens", add_bos);
  fields.Bool("plain", plain);
  const json* text = fields.Find("prompt");
  NoteChatFields(fields);
  SHOAL_RETURN_IF_ERROR(fields.Finish());
  ApiPrompt prompt;
  if (text == nullptr) {
    if (!object.contains("messages")) {
      return FieldError("prompt", "missing; want a string, or messages as in a chat request");
    }
    ApiRequest unused;
    SHOAL_ASSIGN_OR_RETURN(prompt, ChatPrompt(body, model, unused));
  } else if (text->is_string()) {
    SHOAL_ASSIGN_OR_RETURN(prompt,
                           TextPrompt(text->get_ref<const std::string&>(), add_bos, plain, model));
  } else {
    return FieldError("prompt", absl::StrCat("want a string, found ", Shown(*text)));
  }
  nlohmann::ordered_json answer;
  answer["count"] = prompt.ids.size();
  answer["max_model_len"] = model.max_context;
  answer["tokens"] = prompt.ids;
  return answer.dump();
}

absl::StatusOr<std::string> Detokenize(absl::string_view body, const ApiModel& model) {
  SHOAL_ASSIGN_OR_RETURN(const json object, ParseJsonObject(body));
  JsonFields fields(object);
  SHOAL_RETURN_IF_ERROR(CheckModelName(fields, model.options));
  bool leave_bos_out = model.options.prepend_bos;
  std::vector<int32_t> ids;
  fields.Bool("add_special_tokens", leave_bos_out);
  fields.Ints("tokens", 0, model.options.model.vocab_size - 1, model.options.limits.max_body_bytes,
              ids);
  SHOAL_RETURN_IF_ERROR(fields.Finish());
  if (!object.contains("tokens")) return FieldError("tokens", "missing; want a list of token ids");
  absl::Span<const int32_t> rest = ids;
  if (leave_bos_out && !rest.empty() && rest[0] == model.bos_id) rest.remove_prefix(1);
  nlohmann::ordered_json answer;
  answer["prompt"] = model.tokenizer.Decode(rest, /*skip_special=*/false);
  return answer.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace shoal
