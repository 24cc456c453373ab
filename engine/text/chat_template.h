// SPDX-License-Identifier: Apache-2.0
// Conversations to prompts: the chat templates of DeepSeek V2-Chat, V3, R1, R1-0528 and V3.1,
// natively.
//
// The result tells which parts are the template's own special tokens. Only those become special
// ids: whatever a client wrote inside a message, `<｜User｜>` included, is encoded as ordinary
// characters, so nobody can forge a turn.
//
// Where a published template has a plain defect we render what it evidently meant:
// - V3 drops calls beside non-null content and never closes a single call: here every call is
//   rendered, and every round of calls closed.
// - R1 and R1-0528 leave out the opening of a second round of calls, and of results: here every
//   round is whole, and results are closed before further calls.
// - V3.1 ends a message with `prefix` by the end of sentence: here it stays open, to be continued.
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
// there, else the `chat_template` of tokenizer_config.json (text, or the entry named "default" of
// a list). The first rule that holds for the template's text:
// - it mentions <｜Assistant｜>, has </think> and the variable `thinking`: v3.1
// - it contains <｜Assistant｜><think>: r1
// - it mentions <｜Assistant｜> and has </think>: r1-0528
// - it mentions <｜Assistant｜>: v3
// - it has "User: " and "Assistant:": v2
// Unimplemented when none holds, NotFound when the directory has no chat template; both messages
// name the --chat-format flag, which overrides detection.
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
  // Of an assistant: its earlier thoughts. None of these formats shows them to the model again.
  std::string reasoning_content;
  std::vector<ToolCall> tool_calls;  // of an assistant
  std::string tool_call_id;          // of a tool; the prompts rely on order, not on ids
  bool prefix = false;               // of an assistant, last message only: continue this text
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
  // For V3.1; unset means off. R1 always thinks, V2 and V3 never do: ignored there.
  std::optional<bool> thinking;
  bool add_generation_prompt = true;
};

// A stretch [begin, end) of bytes of RenderedPrompt::text: either one special token of the
// template, or text that is encoded as one string without added tokens.
struct Segment {
  size_t begin = 0;
  size_t end = 0;
  bool special = false;
};

struct RenderedPrompt {
  std::string text;
  std::vector<Segment> segments;  // in order, covering `text`, no two text segments adjacent
  // Whether the prompt ends inside <think>, so that the output begins with thoughts.
  bool starts_in_reasoning = false;
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
