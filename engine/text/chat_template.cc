// SPDX-License-Identifier: Apache-2.0
#include "engine/text/chat_template.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/text/prompt_writer.h"
#include "engine/text/tokenizer.h"

namespace shoal {

namespace {

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
      return RenderV3Family(format, request);
    case ChatFormat::kV31:
      return RenderV31(request);
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
