// SPDX-License-Identifier: Apache-2.0
// Splits what R1 and V3.1 write into thoughts (`reasoning_content`) and answer (`content`) while it
// streams.
#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace shoal {

// The rule: output is [<think>] thoughts </think> answer. The opening marker stands at the very
// start of the output or not at all; when the prompt already opened the thought
// (RenderedPrompt::starts_in_reasoning) it may be repeated and is dropped. The first </think> ends
// the thought; later markers are ordinary text. White space is kept. Markers may be cut anywhere
// between pushes: text that may still become one is held back. Not thread-safe.
class ReasoningSplitter {
 public:
  struct Delta {
    std::string reasoning;
    std::string content;
  };

  explicit ReasoningSplitter(bool starts_in_reasoning);

  Delta Push(absl::string_view text);
  // The output is over: what was held back is text after all.
  Delta Flush();

  // Whether there was a thought, even an empty one: tells `reasoning_content: ""` from none.
  bool has_reasoning() const { return has_reasoning_; }
  // Whether the thought is still open: what comes next is reasoning.
  bool in_reasoning() const;

 private:
  enum class State { kStart, kReasoning, kContent };
  Delta Drain(bool final);

  State state_ = State::kStart;
  bool starts_in_reasoning_;
  bool has_reasoning_;
  std::string pending_;  // not yet given out: what may become a marker
};

}  // namespace shoal
