// SPDX-License-Identifier: Apache-2.0
// See openai_request.h.
#include "coordinator/api/openai_request.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "coordinator/api/api_error.h"
#include "coordinator/api/json_fields_internal.h"
#include "coordinator/api/prompts_internal.h"
#include "engine/base/status_macros.h"

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

  fields.Only("response_format", {json::object({{"type", "text"}})},
              "only {\"type\": \"text\"} is supported");
  fields.Only("skip_special_tokens", {true}, "special tokens are always left out of the text");
  for (const char* harmless : {"metadata", "store", "service_tier", "safety_identifier",
                               "prompt_cache_key", "prompt_cache_retention"}) {
    fields.Ignore(harmless);
  }
}

}  // namespace

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

}  // namespace shoal
