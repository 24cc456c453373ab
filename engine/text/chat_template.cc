// SPDX-License-Identifier: Apache-2.0
#include "engine/text/chat_template.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/text/tokenizer.h"

namespace shoal {

namespace {

constexpr absl::string_view kBos = "<｜begin▁of▁sentence｜>";
constexpr absl::string_view kEos = "<｜end▁of▁sentence｜>";
constexpr absl::string_view kUser = "<｜User｜>";
constexpr absl::string_view kAssistant = "<｜Assistant｜>";
constexpr absl::string_view kThink = "<think>";
constexpr absl::string_view kEndThink = "</think>";
constexpr absl::string_view kCallsBegin = "<｜tool▁calls▁begin｜>";
constexpr absl::string_view kCallsEnd = "<｜tool▁calls▁end｜>";
constexpr absl::string_view kCallBegin = "<｜tool▁call▁begin｜>";
constexpr absl::string_view kCallEnd = "<｜tool▁call▁end｜>";
constexpr absl::string_view kOutputsBegin = "<｜tool▁outputs▁begin｜>";
constexpr absl::string_view kOutputsEnd = "<｜tool▁outputs▁end｜>";
constexpr absl::string_view kOutputBegin = "<｜tool▁output▁begin｜>";
constexpr absl::string_view kOutputEnd = "<｜tool▁output▁end｜>";
constexpr absl::string_view kToolSep = "<｜tool▁sep｜>";

// Grows a prompt, keeping apart the template's special tokens and everything else.
class PromptWriter {
 public:
  PromptWriter& Special(absl::string_view token) {
    Append(token, /*special=*/true);
    return *this;
  }
  PromptWriter& Text(absl::string_view text) {
    Append(text, /*special=*/false);
    return *this;
  }
  RenderedPrompt Finish(bool starts_in_reasoning) && {
    prompt_.starts_in_reasoning = starts_in_reasoning;
    return std::move(prompt_);
  }

 private:
  void Append(absl::string_view text, bool special) {
    if (text.empty()) return;
    const size_t begin = prompt_.text.size();
    absl::StrAppend(&prompt_.text, text);
    const size_t end = prompt_.text.size();
    std::vector<Segment>& segments = prompt_.segments;
    if (!special && !segments.empty() && !segments.back().special) {
      segments.back().end = end;
    } else {
      segments.push_back({begin, end, special});
    }
  }

  RenderedPrompt prompt_;
};

// V3 and later put all system messages in front, wherever they stand.
std::string JoinSystemMessages(const ChatRequest& request) {
  std::string joined;
  bool first = true;
  for (const ChatMessage& message : request.messages) {
    if (message.role != ChatRole::kSystem) continue;
    absl::StrAppend(&joined, first ? "" : "\n\n", message.content);
    first = false;
  }
  return joined;
}

// V2-Chat. The model writes the space after "Assistant:" itself.
RenderedPrompt RenderV2(const ChatRequest& request) {
  PromptWriter out;
  out.Special(kBos);
  for (const ChatMessage& message : request.messages) {
    switch (message.role) {
      case ChatRole::kSystem:
        out.Text(message.content).Text("\n\n");
        break;
      case ChatRole::kUser:
        out.Text("User: ").Text(message.content).Text("\n\n");
        break;
      case ChatRole::kAssistant:
        out.Text("Assistant: ").Text(message.content);
        if (!message.prefix) out.Special(kEos);
        break;
      case ChatRole::kTool:
        break;  // refused by Validate
    }
  }
  if (request.add_generation_prompt && !request.messages.back().prefix) out.Text("Assistant:");
  return std::move(out).Finish(false);
}

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

absl::Status Validate(ChatFormat format, const ChatRequest& request) {
  const auto unsupported = [&](absl::string_view field, absl::string_view what) {
    return absl::InvalidArgumentError(
        absl::StrCat(field, ": the chat format ", ChatFormatName(format), " has no ", what));
  };
  if (request.messages.empty()) {
    return absl::InvalidArgumentError("messages: wanted at least one message, found none");
  }
  if (!request.tools.empty() && format != ChatFormat::kV31) {
    return unsupported("tools", "place for tools; describe them in a system message");
  }
  for (size_t i = 0; i < request.messages.size(); ++i) {
    const ChatMessage& message = request.messages[i];
    const std::string field = absl::StrCat("messages[", i, "]");
    if (format == ChatFormat::kV2 && message.role == ChatRole::kTool) {
      return unsupported(absl::StrCat(field, ".role"), "tool results");
    }
    if (format == ChatFormat::kV2 && !message.tool_calls.empty()) {
      return unsupported(absl::StrCat(field, ".tool_calls"), "tool calls");
    }
    if (!message.tool_calls.empty() && message.role != ChatRole::kAssistant) {
      return absl::InvalidArgumentError(
          absl::StrCat(field, ".tool_calls: only an assistant message has calls"));
    }
    if (message.prefix && (message.role != ChatRole::kAssistant || !message.tool_calls.empty() ||
                           i + 1 != request.messages.size())) {
      return absl::InvalidArgumentError(absl::StrCat(
          field, ".prefix: only the last message can be continued, and only an assistant's text"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<RenderedPrompt> RenderChat(ChatFormat format, const ChatRequest& request) {
  SHOAL_RETURN_IF_ERROR(Validate(format, request));
  switch (format) {
    case ChatFormat::kV2:
      return RenderV2(request);
    case ChatFormat::kV3:
    case ChatFormat::kR1:
    case ChatFormat::kR1_0528:
      return V3Writer(format).Render(request);
    case ChatFormat::kV31:
      return V31Writer(request.thinking.value_or(false)).Render(request);
  }
  return absl::InvalidArgumentError("unknown chat format");
}

absl::StatusOr<std::vector<int32_t>> EncodePrompt(const Tokenizer& tokenizer,
                                                  const RenderedPrompt& prompt) {
  std::vector<int32_t> ids;
  const absl::string_view text = prompt.text;
  for (const Segment& segment : prompt.segments) {
    const absl::string_view part = text.substr(segment.begin, segment.end - segment.begin);
    if (!segment.special) {
      const std::vector<int32_t> part_ids = tokenizer.Encode(part, Tokenizer::Matching::kPlain);
      ids.insert(ids.end(), part_ids.begin(), part_ids.end());
      continue;
    }
    const std::optional<int32_t> id = tokenizer.TokenId(part);
    if (!id.has_value()) {
      return absl::FailedPreconditionError(
          absl::StrCat("the tokenizer has no token ", part, ", which the chat format needs"));
    }
    ids.push_back(*id);
  }
  return ids;
}

}  // namespace shoal
