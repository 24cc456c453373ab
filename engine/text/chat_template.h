// SPDX-License-Identifier: Apache-2.0
// Conversations to prompts: the chat templates of DeepSeek V2-Chat, V3, R1, R1-0528 and V3.1,
// natively.
//
// The result tells which parts are the template's own special tokens. Only those become special
// ids: whatever a client wrote inside a message, `<｜User｜>` included, is encoded as ordinary
// characters, so nobody can forge a turn.
//
// Where a published template has a plain defect we render what it evidently meant:
//   V3          calls beside non-null content are dropped, and a single call is never closed: here
//   every call is
//               rendered, and closed.
//   R1, -0528   the second round of calls (and of results) lacks its opening: here every round is
//   whole. V3.1        a message with `prefix` is closed by the end of sentence: here it stays
//   open, to be continued.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace shoal {

class Tokenizer;

enum class ChatFormat {
  kV2,       // V2-Chat, V2-Lite-Chat, Coder-V2-Instruct: "User: ...\n\nAssistant:"
  kV3,       // V3 (and V2.5, V3-0324): <｜User｜>...<｜Assistant｜>
  kR1,       // as V3, history without thoughts, the prompt opens <think>
  kR1_0528,  // as R1, but the model writes <think> itself (R1's first template too)
  kV31,      // V3.1, V3.1-Terminus: hybrid thinking, tools
};

// "v2", "v3", "r1", "r1-0528", "v3.1".
absl::string_view ChatFormatName(ChatFormat format);
// InvalidArgument listing the names when there is none such.
absl::StatusOr<ChatFormat> ParseChatFormat(absl::string_view name);

// Which format a checkpoint directory speaks, from its chat template: `chat_template.jinja` if
// there, else the `chat_template` of tokenizer_config.json (text, or the entry named "default" of a
// list). The rule, in this order:
//   mentions <｜Assistant｜>:  has </think> and the variable `thinking`        -> v3.1
//                             contains <｜Assistant｜><think>                   -> r1
//                             has </think>                                    -> r1-0528
//                             otherwise                                       -> v3
//   no <｜Assistant｜>, but "User: " and "Assistant:"                          -> v2
// Unimplemented when nothing matches, NotFound when the directory has no chat template; both
// messages name the
// --chat-format flag, which overrides detection.
absl::StatusOr<ChatFormat> DetectChatFormat(const std::string& directory);
// The same rule on a template's text.
absl::StatusOr<ChatFormat> DetectChatFormatOfTemplate(absl::string_view chat_template);

// Whether models of this format may think before they answer (then a ReasoningSplitter reads their
// output).
bool ChatFormatReasons(ChatFormat format);

enum class ChatRole { kSystem, kUser, kAssistant, kTool };

// An assistant's call of a function; `arguments` is JSON text, inserted as it stands.
struct ToolCall {
  std::string id;
  std::string type = "function";
  std::string name;
  std::string arguments;
};

struct ChatMessage {
  ChatRole role = ChatRole::kUser;
  std::string content;
  std::string reasoning_content;  // assistant: earlier thoughts. None of these formats shows them
                                  // to the model
  std::vector<ToolCall> tool_calls;  // assistant
  std::string tool_call_id;          // tool
  bool prefix = false;               // assistant, last message only: continue this text
};

// A function the model may call; `parameters` is a JSON Schema as text, written the way the prompt
// shows it.
struct Tool {
  std::string name;
  std::string description;
  std::string parameters;
};

struct ChatRequest {
  std::vector<ChatMessage> messages;
  std::vector<Tool> tools;
  std::optional<bool>
      thinking;  // V3.1; unset means off. R1 always thinks, V2 and V3 never: ignored there
  bool add_generation_prompt = true;
};

// A stretch [begin, end) of bytes of RenderedPrompt::text.
struct Segment {
  size_t begin = 0;
  size_t end = 0;
  bool special = false;  // one special token of the template; else text, encoded as one string
                         // without added tokens
};

struct RenderedPrompt {
  std::string text;
  std::vector<Segment> segments;  // in order, covering `text`, no two text segments adjacent
  bool starts_in_reasoning =
      false;  // the prompt ends inside <think>: the output begins with thoughts
};

// InvalidArgument for what the format cannot express, naming the field: no messages; tools where
// the template has no place for them (V2, V3, R1); calls and results in V2; `prefix` anywhere but
// on a last assistant message.
absl::StatusOr<RenderedPrompt> RenderChat(ChatFormat format, const ChatRequest& request);

// The ids of a rendered prompt. FailedPrecondition if the tokenizer lacks a special token of the
// template.
absl::StatusOr<std::vector<int32_t>> EncodePrompt(const Tokenizer& tokenizer,
                                                  const RenderedPrompt& prompt);

}  // namespace shoal
