// SPDX-License-Identifier: Apache-2.0
#include "engine/text/chat_json.h"

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/text/json_text_internal.h"

namespace shoal {

namespace {

using Json = nlohmann::ordered_json;

// What the schema of a function without declared parameters is: OpenAI reads a missing one as
// "takes none".
constexpr absl::string_view kNoParameters = R"({"type": "object", "properties": {}})";

absl::Status Invalid(absl::string_view field, absl::string_view wanted, const Json& found) {
  return absl::InvalidArgumentError(
      absl::StrCat(field, ": wanted ", wanted, ", found ",
                   found.is_string() ? absl::StrCat("\"", found.get<std::string>(), "\"")
                   : found.is_null() ? "nothing"
                   : found.is_array() && found.empty() ? "an empty array"
                                                       : found.type_name()));
}

// The member, or null: a field that is null counts as absent everywhere.
const Json& Get(const Json& object, const char* key) {
  static const Json null;
  const auto it = object.find(key);
  return it == object.end() ? null : *it;
}

std::string Field(absl::string_view parent, absl::string_view name) {
  return absl::StrCat(parent, ".", name);
}

absl::StatusOr<std::string> RequiredString(const std::string& field, const Json& value) {
  if (!value.is_string()) return Invalid(field, "a string", value);
  return value.get<std::string>();
}

absl::StatusOr<std::string> OptionalString(const std::string& field, const Json& value) {
  if (value.is_null()) return std::string();
  return RequiredString(field, value);
}

absl::StatusOr<bool> OptionalBool(const std::string& field, const Json& value, bool by_default) {
  if (value.is_null()) return by_default;
  if (!value.is_boolean()) return Invalid(field, "a boolean", value);
  return value.get<bool>();
}

absl::StatusOr<ChatRole> ReadRole(const std::string& field, const Json& value) {
  if (value == "system" || value == "developer") return ChatRole::kSystem;
  if (value == "user") return ChatRole::kUser;
  if (value == "assistant") return ChatRole::kAssistant;
  if (value == "tool") return ChatRole::kTool;
  return Invalid(field, "system, developer, user, assistant or tool", value);
}

// A string, or text parts joined by a newline.
absl::StatusOr<std::string> ReadContent(const std::string& field, const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_array()) return Invalid(field, "a string or an array of text parts", value);
  std::string joined;
  for (size_t i = 0; i < value.size(); ++i) {
    const std::string part = absl::StrCat(field, "[", i, "]");
    if (!value[i].is_object()) return Invalid(part, "an object", value[i]);
    const Json& type = Get(value[i], "type");
    if (type != "text") return Invalid(Field(part, "type"), "\"text\"", type);
    SHOAL_ASSIGN_OR_RETURN(const std::string text,
                           RequiredString(Field(part, "text"), Get(value[i], "text")));
    absl::StrAppend(&joined, i == 0 ? "" : "\n", text);
  }
  return joined;
}

absl::StatusOr<ToolCall> ReadToolCall(const std::string& field, const Json& value) {
  if (!value.is_object()) return Invalid(field, "an object", value);
  ToolCall call;
  SHOAL_ASSIGN_OR_RETURN(call.id, OptionalString(Field(field, "id"), Get(value, "id")));
  const Json& type = Get(value, "type");
  if (!type.is_null() && type != "function") {
    return Invalid(Field(field, "type"), "\"function\"", type);
  }
  const std::string function_field = Field(field, "function");
  const Json& function = Get(value, "function");
  if (!function.is_object()) return Invalid(function_field, "an object", function);
  SHOAL_ASSIGN_OR_RETURN(call.name,
                         RequiredString(Field(function_field, "name"), Get(function, "name")));
  const Json& arguments = Get(function, "arguments");
  if (arguments.is_object()) {
    call.arguments = ToPythonJson(arguments);
  } else if (arguments.is_string()) {
    call.arguments = arguments.get<std::string>();
  } else {
    return Invalid(Field(function_field, "arguments"), "JSON as a string, or an object", arguments);
  }
  return call;
}

absl::StatusOr<ChatMessage> ReadMessage(const std::string& field, const Json& value) {
  if (!value.is_object()) return Invalid(field, "an object", value);
  ChatMessage message;
  SHOAL_ASSIGN_OR_RETURN(message.role, ReadRole(Field(field, "role"), Get(value, "role")));
  const bool is_assistant = message.role == ChatRole::kAssistant;
  const Json& content = Get(value, "content");
  // An assistant that only called tools, or was cut while thinking, said nothing.
  if (!content.is_null() || !is_assistant) {
    SHOAL_ASSIGN_OR_RETURN(message.content, ReadContent(Field(field, "content"), content));
  }
  SHOAL_ASSIGN_OR_RETURN(
      message.reasoning_content,
      OptionalString(Field(field, "reasoning_content"), Get(value, "reasoning_content")));
  SHOAL_ASSIGN_OR_RETURN(message.tool_call_id,
                         OptionalString(Field(field, "tool_call_id"), Get(value, "tool_call_id")));
  SHOAL_ASSIGN_OR_RETURN(message.prefix,
                         OptionalBool(Field(field, "prefix"), Get(value, "prefix"), false));
  const Json& calls = Get(value, "tool_calls");
  if (!calls.is_null() && !calls.is_array()) {
    return Invalid(Field(field, "tool_calls"), "an array", calls);
  }
  for (size_t i = 0; i < calls.size(); ++i) {
    SHOAL_ASSIGN_OR_RETURN(message.tool_calls.emplace_back(),
                           ReadToolCall(absl::StrCat(field, ".tool_calls[", i, "]"), calls[i]));
  }
  return message;
}

absl::StatusOr<Tool> ReadTool(const std::string& field, const Json& value) {
  if (!value.is_object()) return Invalid(field, "an object", value);
  const Json& type = Get(value, "type");
  if (type != "function") return Invalid(Field(field, "type"), "\"function\"", type);
  const std::string function_field = Field(field, "function");
  const Json& function = Get(value, "function");
  if (!function.is_object()) return Invalid(function_field, "an object", function);
  Tool tool;
  SHOAL_ASSIGN_OR_RETURN(tool.name,
                         RequiredString(Field(function_field, "name"), Get(function, "name")));
  SHOAL_ASSIGN_OR_RETURN(tool.description, OptionalString(Field(function_field, "description"),
                                                          Get(function, "description")));
  const Json& parameters = Get(function, "parameters");
  if (!parameters.is_null() && !parameters.is_object()) {
    return Invalid(Field(function_field, "parameters"), "a JSON Schema object", parameters);
  }
  tool.parameters = parameters.is_null() ? std::string(kNoParameters) : ToPythonJson(parameters);
  return tool;
}

// From the most to the least specific way of asking; unset if the body asks in none.
absl::StatusOr<std::optional<bool>> ReadThinking(const Json& body) {
  std::optional<bool> asked;
  const Json& effort = Get(body, "reasoning_effort");
  if (!effort.is_null()) {
    if (!effort.is_string()) return Invalid("reasoning_effort", "a string", effort);
    asked = effort != "none";
  }
  const Json& arguments = Get(body, "chat_template_kwargs");
  if (!arguments.is_null() && !arguments.is_object()) {
    return Invalid("chat_template_kwargs", "an object", arguments);
  }
  if (arguments.is_object()) {
    for (const char* key : {"enable_thinking", "thinking"}) {
      const Json& value = Get(arguments, key);
      if (value.is_null()) continue;
      SHOAL_ASSIGN_OR_RETURN(asked, OptionalBool(Field("chat_template_kwargs", key), value, false));
    }
  }
  const Json& thinking = Get(body, "thinking");
  if (!thinking.is_null()) {
    if (!thinking.is_object()) return Invalid("thinking", "an object", thinking);
    const Json& type = Get(thinking, "type");
    if (type != "enabled" && type != "disabled") {
      return Invalid("thinking.type", "\"enabled\" or \"disabled\"", type);
    }
    asked = type == "enabled";
  }
  return asked;
}

}  // namespace

absl::StatusOr<ChatRequest> ParseChatBody(absl::string_view json) {
  SHOAL_ASSIGN_OR_RETURN(const Json body, ParseJsonText(json));
  if (!body.is_object()) return Invalid("body", "a JSON object", body);
  ChatRequest request;
  const Json& messages = Get(body, "messages");
  if (!messages.is_array() || messages.empty()) {
    return Invalid("messages", "a non-empty array", messages);
  }
  for (size_t i = 0; i < messages.size(); ++i) {
    SHOAL_ASSIGN_OR_RETURN(request.messages.emplace_back(),
                           ReadMessage(absl::StrCat("messages[", i, "]"), messages[i]));
  }
  const Json& tools = Get(body, "tools");
  if (!tools.is_null() && !tools.is_array()) return Invalid("tools", "an array", tools);
  for (size_t i = 0; i < tools.size(); ++i) {
    SHOAL_ASSIGN_OR_RETURN(request.tools.emplace_back(),
                           ReadTool(absl::StrCat("tools[", i, "]"), tools[i]));
  }
  if (Get(body, "tool_choice") == "none") request.tools.clear();
  SHOAL_ASSIGN_OR_RETURN(request.thinking, ReadThinking(body));
  SHOAL_ASSIGN_OR_RETURN(
      request.add_generation_prompt,
      OptionalBool("add_generation_prompt", Get(body, "add_generation_prompt"), true));
  return request;
}

}  // namespace shoal
