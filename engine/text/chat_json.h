// SPDX-License-Identifier: Apache-2.0
// The conversation part of an OpenAI chat body, as JSON text, into a ChatRequest.
#pragma once

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/text/chat_template.h"

namespace shoal {

// Reads these fields and ignores all others (sampling, streaming, ... are the API's business).
// - messages: role system, developer (read as system), user, assistant or tool; content a string,
//   null (assistant only), or an array of {"type": "text", "text"} parts, joined by a newline;
//   reasoning_content; tool_calls (arguments a string, taken verbatim, or an object);
//   tool_call_id; prefix.
// - tools: {"type": "function", "function": {name, description, parameters}}; parameters are
//   rewritten like Python's json.dumps(ensure_ascii=False), the way the templates print them.
// - tool_choice: "none" leaves the tools out of the prompt; all else is up to the caller.
// - thinking {"type": "enabled" | "disabled"}; else chat_template_kwargs {"thinking": bool} (or
//   "enable_thinking"); else reasoning_effort, where "none" is off and any other word on.
// - add_generation_prompt: default true.
// InvalidArgument, naming the field ("messages[2].content: ...") and what was wanted, for anything
// malformed, invalid UTF-8 and JSON nested deeper than 100 levels included.
absl::StatusOr<ChatRequest> ParseChatBody(absl::string_view json);

}  // namespace shoal
