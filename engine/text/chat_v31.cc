// SPDX-License-Identifier: Apache-2.0
// The prompts of V3.1.
#include <utility>

#include "engine/text/prompt_writer.h"

namespace shoal {

namespace {

// V3.1: hybrid thinking, tools described after the system text.
class V31Writer {
 public:
  explicit V31Writer(bool thinking) : thinking_(thinking) {}

  RenderedPrompt Render(const ChatRequest& request) && {
    out_.Special(kBos).Text(JoinSystemMessages(request));
    if (!request.tools.empty()) AddTools(request.tools);
    for (const ChatMessage& message : request.messages) Add(message);
    if (request.add_generation_prompt && after_user_) Header(thinking_);
    return std::move(out_).Finish(in_reasoning_);
  }

 private:
  void AddTools(const std::vector<Tool>& tools) {
    out_.Text("\n\n## Tools\nYou have access to the following tools:\n");
    for (const Tool& tool : tools) {
      out_.Text("\n### ").Text(tool.name).Text("\nDescription: ").Text(tool.description);
      out_.Text("\n\nParameters: ").Text(tool.parameters).Text("\n");
    }
    out_.Text("\nIMPORTANT: ALWAYS adhere to this exact format for tool use:\n");
    out_.Special(kCallsBegin).Special(kCallBegin).Text("tool_call_name");
    out_.Special(kToolSep).Text("tool_call_arguments").Special(kCallEnd);
    out_.Text("{{additional_tool_calls}}").Special(kCallsEnd);
    out_.Text(
        "\n\nWhere:\n\n"
        "- `tool_call_name` must be an exact match to one of the available tools\n"
        "- `tool_call_arguments` must be valid JSON that strictly follows the tool's Parameters "
        "Schema\n"
        "- For multiple tool calls, chain them directly without separators or spaces\n");
  }

  void Add(const ChatMessage& message) {
    switch (message.role) {
      case ChatRole::kSystem:
        return;
      case ChatRole::kUser:
        out_.Special(kUser).Text(message.content);
        after_user_ = true;
        after_output_ = false;
        return;
      case ChatRole::kTool:
        out_.Special(kOutputBegin).Text(message.content).Special(kOutputEnd);
        after_user_ = false;
        after_output_ = true;
        return;
      case ChatRole::kAssistant:
        AddAssistant(message);
        after_user_ = false;
        after_output_ = false;
        return;
    }
  }

  void AddAssistant(const ChatMessage& message) {
    // Only the first answer after a user turn has a header: after results the model just goes on.
    if (after_user_) Header(message.prefix && thinking_);
    if (message.tool_calls.empty()) {
      out_.Text(after_output_ ? message.content : AfterThoughts(message.content));
    } else {
      out_.Text(message.content).Special(kCallsBegin);
      for (const ToolCall& call : message.tool_calls) {
        out_.Special(kCallBegin).Text(call.name).Special(kToolSep).Text(call.arguments);
        out_.Special(kCallEnd);
      }
      out_.Special(kCallsEnd);
    }
    if (!message.prefix) out_.Special(kEos);
  }

  void Header(bool think) {
    out_.Special(kAssistant).Special(think ? kThink : kEndThink);
    in_reasoning_ = think;
  }

  static absl::string_view AfterThoughts(absl::string_view content) {
    const size_t at = content.find(kEndThink);
    return at == content.npos ? content : content.substr(at + kEndThink.size());
  }

  const bool thinking_;
  PromptWriter out_;
  bool after_user_ = false;
  bool after_output_ = false;
  bool in_reasoning_ = false;  // the last header opened <think>
};

}  // namespace

RenderedPrompt RenderV31(const ChatRequest& request) {
  return V31Writer(request.thinking.value_or(false)).Render(request);
}

}  // namespace shoal
