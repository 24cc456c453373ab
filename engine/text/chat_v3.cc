// SPDX-License-Identifier: Apache-2.0
// The prompts of V3, R1 and R1-0528.
#include <utility>

#include "engine/text/prompt_writer.h"

namespace shoal {

namespace {

// V3, R1 and R1-0528 differ in three places: whether earlier thoughts are cut from history, what
// separates tool results, and what the generation prompt opens.
class V3Writer {
 public:
  explicit V3Writer(ChatFormat format) : format_(format) {}

  RenderedPrompt Render(const ChatRequest& request) && {
    out_.Special(kBos).Text(JoinSystemMessages(request));
    for (const ChatMessage& message : request.messages) Add(message);
    const bool thinks = format_ == ChatFormat::kR1;
    bool starts_in_reasoning = false;
    if (in_outputs_) {
      out_.Special(kOutputsEnd);  // the answer follows without another header
    } else if (request.add_generation_prompt && !request.messages.back().prefix) {
      out_.Special(kAssistant);
      if (thinks) out_.Special(kThink).Text("\n");
      starts_in_reasoning = thinks;
    }
    return std::move(out_).Finish(starts_in_reasoning);
  }

 private:
  void Add(const ChatMessage& message) {
    switch (message.role) {
      case ChatRole::kSystem:
        return;
      case ChatRole::kUser:
        in_outputs_ = false;  // the published templates leave the results open here
        out_.Special(kUser).Text(message.content);
        return;
      case ChatRole::kTool:
        AddOutput(message);
        return;
      case ChatRole::kAssistant:
        message.tool_calls.empty() ? AddAnswer(message) : AddCalls(message);
        return;
    }
  }

  void AddAnswer(const ChatMessage& message) {
    absl::string_view content = message.content;
    if (in_outputs_) {
      CloseOutputs();
    } else {
      out_.Special(kAssistant);
      if (format_ != ChatFormat::kV3 && !message.prefix) content = AfterThoughts(content);
    }
    out_.Text(content);
    if (!message.prefix) out_.Special(kEos);
  }

  void AddCalls(const ChatMessage& message) {
    CloseOutputs();
    out_.Special(kAssistant).Text(message.content).Special(kCallsBegin);
    bool first = true;
    for (const ToolCall& call : message.tool_calls) {
      if (!first) out_.Text("\n");
      first = false;
      out_.Special(kCallBegin).Text(call.type).Special(kToolSep).Text(call.name);
      out_.Text("\n```json\n").Text(call.arguments).Text("\n```").Special(kCallEnd);
    }
    out_.Special(kCallsEnd).Special(kEos);
  }

  void AddOutput(const ChatMessage& message) {
    if (!in_outputs_) {
      out_.Special(kOutputsBegin);
    } else if (format_ == ChatFormat::kV3) {
      out_.Text("\n");
    }
    in_outputs_ = true;
    out_.Special(kOutputBegin).Text(message.content).Special(kOutputEnd);
  }

  void CloseOutputs() {
    if (in_outputs_) out_.Special(kOutputsEnd);
    in_outputs_ = false;
  }

  static absl::string_view AfterThoughts(absl::string_view content) {
    const size_t at = content.rfind(kEndThink);
    return at == content.npos ? content : content.substr(at + kEndThink.size());
  }

  const ChatFormat format_;
  PromptWriter out_;
  bool in_outputs_ = false;  // tool results have been opened and not closed
};

}  // namespace

RenderedPrompt RenderV3Family(ChatFormat format, const ChatRequest& request) {
  return V3Writer(format).Render(request);
}

}  // namespace shoal
