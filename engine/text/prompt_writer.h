// SPDX-License-Identifier: Apache-2.0
// What the chat formats are written with: the special tokens, a prompt that keeps them apart from
// text, and one function per family. Private to this room; callers use chat_template.h.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/text/chat_template.h"

namespace shoal {

inline constexpr absl::string_view kBos = "<｜begin▁of▁sentence｜>";
inline constexpr absl::string_view kEos = "<｜end▁of▁sentence｜>";
inline constexpr absl::string_view kUser = "<｜User｜>";
inline constexpr absl::string_view kAssistant = "<｜Assistant｜>";
inline constexpr absl::string_view kThink = "<think>";
inline constexpr absl::string_view kEndThink = "</think>";
inline constexpr absl::string_view kCallsBegin = "<｜tool▁calls▁begin｜>";
inline constexpr absl::string_view kCallsEnd = "<｜tool▁calls▁end｜>";
inline constexpr absl::string_view kCallBegin = "<｜tool▁call▁begin｜>";
inline constexpr absl::string_view kCallEnd = "<｜tool▁call▁end｜>";
inline constexpr absl::string_view kOutputsBegin = "<｜tool▁outputs▁begin｜>";
inline constexpr absl::string_view kOutputsEnd = "<｜tool▁outputs▁end｜>";
inline constexpr absl::string_view kOutputBegin = "<｜tool▁output▁begin｜>";
inline constexpr absl::string_view kOutputEnd = "<｜tool▁output▁end｜>";
inline constexpr absl::string_view kToolSep = "<｜tool▁sep｜>";

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
inline std::string JoinSystemMessages(const ChatRequest& request) {
  std::string joined;
  bool first = true;
  for (const ChatMessage& message : request.messages) {
    if (message.role != ChatRole::kSystem) continue;
    absl::StrAppend(&joined, first ? "" : "\n\n", message.content);
    first = false;
  }
  return joined;
}

// The families. Each requires a request that RenderChat has validated.
RenderedPrompt RenderV3Family(ChatFormat format, const ChatRequest& request);  // kV3, kR1, kR1_0528
RenderedPrompt RenderV31(const ChatRequest& request);

}  // namespace shoal
