// SPDX-License-Identifier: Apache-2.0
// See openai_response.h.
#include "coordinator/api/openai_response.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/text/utf8.h"

namespace shoal {
namespace {

using Json = nlohmann::ordered_json;

// JSON has no minus infinity; OpenAI writes this.
constexpr float kLeastLogprob = -9999.0f;

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

double Logprob(float value) { return value > kLeastLogprob ? value : kLeastLogprob; }

Json UsageObject(const Usage& usage) {
  Json json;
  json["prompt_tokens"] = usage.prompt_tokens;
  json["completion_tokens"] = usage.completion_tokens;
  json["total_tokens"] = usage.prompt_tokens + usage.completion_tokens;
  json["prompt_tokens_details"]["cached_tokens"] = usage.cached_tokens;
  return json;
}

// {"tokens", "token_logprobs", "top_logprobs", "text_offset"}, as for completions. The chosen token
// is always among the top ones.
Json LegacyLogprobs(const Tokenizer& tokenizer, const std::vector<ShownToken>& tokens) {
  Json json;
  json["text_offset"] = Json::array();
  json["token_logprobs"] = Json::array();
  json["tokens"] = Json::array();
  json["top_logprobs"] = Json::array();
  for (const ShownToken& shown : tokens) {
    const std::string text = TokenText(tokenizer, shown.token);
    json["text_offset"].push_back(shown.text_offset);
    json["tokens"].push_back(text);
    if (!shown.logprobs) {
      json["token_logprobs"].push_back(nullptr);
      json["top_logprobs"].push_back(nullptr);
      continue;
    }
    json["token_logprobs"].push_back(Logprob(shown.logprobs->chosen));
    Json top = Json::object();
    for (const auto& [token, logprob] : shown.logprobs->top) {
      top[TokenText(tokenizer, token)] = Logprob(logprob);
    }
    top[text] = Logprob(shown.logprobs->chosen);
    json["top_logprobs"].push_back(std::move(top));
  }
  return json;
}

Json ChatToken(const Tokenizer& tokenizer, int32_t token, float logprob) {
  const absl::string_view bytes = tokenizer.TokenBytes(token);
  Json json;
  json["token"] = std::string(bytes);  // Dump replaces what is not UTF-8; `bytes` has it all
  json["logprob"] = Logprob(logprob);
  json["bytes"] = Json::array();
  for (const char byte : bytes) json["bytes"].push_back(static_cast<uint8_t>(byte));
  return json;
}

// {"content": [{"token", "logprob", "bytes", "top_logprobs"}, ...]}, as for chat.
Json ChatLogprobs(const Tokenizer& tokenizer, const std::vector<ShownToken>& tokens) {
  Json content = Json::array();
  for (const ShownToken& shown : tokens) {
    const float chosen = shown.logprobs ? shown.logprobs->chosen : kLeastLogprob;
    Json json = ChatToken(tokenizer, shown.token, chosen);
    json["top_logprobs"] = Json::array();
    if (shown.logprobs) {
      for (const auto& [token, logprob] : shown.logprobs->top) {
        json["top_logprobs"].push_back(ChatToken(tokenizer, token, logprob));
      }
    }
    content.push_back(std::move(json));
  }
  Json json;
  json["content"] = std::move(content);
  json["refusal"] = nullptr;
  return json;
}

Json LogprobsOrNull(const ResponseHead& head, const Tokenizer& tokenizer,
                    const std::vector<ShownToken>& tokens) {
  if (!head.logprobs) return nullptr;
  return head.chat ? ChatLogprobs(tokenizer, tokens) : LegacyLogprobs(tokenizer, tokens);
}

Json FinishOrNull(FinishReason finish) {
  if (finish == FinishReason::kNone) return nullptr;
  return std::string(FinishReasonName(finish));
}

Json Envelope(const ResponseHead& head, bool chunk) {
  Json json;
  json["id"] = head.id;
  json["object"] =
      !head.chat ? "text_completion" : (chunk ? "chat.completion.chunk" : "chat.completion");
  json["created"] = head.created;
  json["model"] = head.model;
  json["choices"] = Json::array();
  if (chunk && head.usage) json["usage"] = nullptr;
  return json;
}

}  // namespace

absl::string_view FinishReasonName(FinishReason finish) {
  switch (finish) {
    case FinishReason::kNone:
      return "";
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kError:
      return "error";
  }
  return "";
}

std::string ResponseJson(const ResponseHead& head, const Tokenizer& tokenizer,
                         const std::vector<ChoiceDelta>& choices, const Usage& usage) {
  Json json = Envelope(head, /*chunk=*/false);
  for (size_t i = 0; i < choices.size(); ++i) {
    Json choice;
    choice["index"] = i;
    if (head.chat) {
      Json& message = choice["message"];
      message["role"] = "assistant";
      if (choices[i].has_reasoning) message["reasoning_content"] = choices[i].reasoning;
      message["content"] = choices[i].text;
      message["refusal"] = nullptr;
    } else {
      choice["text"] = choices[i].text;
    }
    choice["logprobs"] = LogprobsOrNull(head, tokenizer, choices[i].tokens);
    choice["finish_reason"] = FinishOrNull(choices[i].finish);
    json["choices"].push_back(std::move(choice));
  }
  json["usage"] = UsageObject(usage);
  return Dump(json);
}

std::string RoleChunkJson(const ResponseHead& head, int choice) {
  Json json = Envelope(head, /*chunk=*/true);
  Json entry;
  entry["index"] = choice;
  entry["delta"]["role"] = "assistant";
  entry["delta"]["content"] = "";
  entry["logprobs"] = nullptr;
  entry["finish_reason"] = nullptr;
  json["choices"].push_back(std::move(entry));
  return Dump(json);
}

std::string ChunkJson(const ResponseHead& head, const Tokenizer& tokenizer, int choice,
                      const ChoiceDelta& delta) {
  Json json = Envelope(head, /*chunk=*/true);
  Json entry;
  entry["index"] = choice;
  if (head.chat) {
    entry["delta"] = Json::object();
    if (!delta.reasoning.empty()) entry["delta"]["reasoning_content"] = delta.reasoning;
    if (!delta.text.empty()) entry["delta"]["content"] = delta.text;
  } else {
    entry["text"] = delta.text;
  }
  entry["logprobs"] =
      delta.tokens.empty() ? Json(nullptr) : LogprobsOrNull(head, tokenizer, delta.tokens);
  entry["finish_reason"] = FinishOrNull(delta.finish);
  json["choices"].push_back(std::move(entry));
  return Dump(json);
}

std::string UsageChunkJson(const ResponseHead& head, const Usage& usage) {
  Json json = Envelope(head, /*chunk=*/true);
  json["usage"] = UsageObject(usage);
  return Dump(json);
}

std::string TokenText(const Tokenizer& tokenizer, int32_t token) {
  const absl::string_view bytes = tokenizer.TokenBytes(token);
  if (IsValidUtf8(bytes)) return std::string(bytes);
  std::string text = "bytes:";
  for (const char byte : bytes) absl::StrAppendFormat(&text, "\\x%02x", static_cast<uint8_t>(byte));
  return text;
}

}  // namespace shoal
