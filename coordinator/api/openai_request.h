// SPDX-License-Identifier: Apache-2.0
// From the JSON of a completion or chat request to something the core can run: every field checked
// against OpenAI's meaning and range, the prompt rendered and tokenised.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "coordinator/api/api_options.h"
#include "engine/config/sampling_params.h"
#include "engine/text/tokenizer.h"

namespace shoal {

struct ApiPrompt {
  std::vector<int32_t> ids;
  bool bos_prepended = false;  // ids[0] is ours, not the client's
  int32_t max_tokens = 0;
};

struct ApiRequest {
  bool chat = false;
  std::vector<ApiPrompt> prompts;  // one, or several for completions
  int n = 1;                       // choices of each prompt
  SamplingParams sampling;         // without its seed when has_seed is false
  bool has_seed = false;
  std::vector<std::string> stop;
  bool stream = false;
  bool include_usage = false;        // stream_options.include_usage
  bool echo = false;                 // completions: the prompt's text comes first
  bool reasons = false;              // chat: split thoughts from the answer
  bool starts_in_reasoning = false;  // chat: the prompt has opened the thought
  std::string user;
  int32_t priority = 0;
};

// What parsing needs to know of the server. Referred to, not owned.
struct ApiModel {
  ApiModel(const ApiOptions& options, const Tokenizer& tokenizer);

  const ApiOptions& options;
  const Tokenizer& tokenizer;
  int64_t max_context;           // tokens
  size_t max_token_bytes;        // the longest text that one token can stand for
  std::vector<int32_t> eos_ids;  // end tokens of the model
  std::optional<int32_t> bos_id;
};

// POST /v1/completions and POST /v1/chat/completions. InvalidArgument naming the field (see
// api_error.h) for malformed JSON, unknown fields, values outside their range, prompts longer than
// the context; NotFound for another model.
//
// Fields that OpenAI's clients commonly send and that cannot change the text are accepted and
// ignored: metadata, store, service_tier, safety_identifier, prompt_cache_key,
// prompt_cache_retention, parallel_tool_calls. Fields that would, and are not supported, are
// accepted only with a value that asks for nothing: suffix, best_of (= n), response_format (text),
// modalities (text), tools with tool_choice "none" (tool calls are not parsed from the output, so
// tools would be a promise we cannot keep), functions, skip_special_tokens (true).
absl::StatusOr<ApiRequest> ParseCompletionRequest(absl::string_view body, const ApiModel& model);
absl::StatusOr<ApiRequest> ParseChatRequest(absl::string_view body, const ApiModel& model);

}  // namespace shoal
