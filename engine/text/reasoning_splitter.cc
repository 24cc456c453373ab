// SPDX-License-Identifier: Apache-2.0
#include "engine/text/reasoning_splitter.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace shoal {

namespace {

constexpr absl::string_view kThink = "<think>";
constexpr absl::string_view kEndThink = "</think>";

// How many bytes at the end of `text` could be the beginning of `marker` (but not all of it).
size_t PossibleStart(absl::string_view text, absl::string_view marker) {
  for (size_t size = std::min(text.size(), marker.size() - 1); size > 0; --size) {
    if (absl::EndsWith(text, marker.substr(0, size))) return size;
  }
  return 0;
}

}  // namespace

ReasoningSplitter::ReasoningSplitter(bool starts_in_reasoning)
    : starts_in_reasoning_(starts_in_reasoning), has_reasoning_(starts_in_reasoning) {}

bool ReasoningSplitter::in_reasoning() const {
  return state_ == State::kReasoning || (state_ == State::kStart && starts_in_reasoning_);
}

ReasoningSplitter::Delta ReasoningSplitter::Push(absl::string_view text) {
  absl::StrAppend(&pending_, text);
  return Drain(/*final=*/false);
}

ReasoningSplitter::Delta ReasoningSplitter::Flush() { return Drain(/*final=*/true); }

ReasoningSplitter::Delta ReasoningSplitter::Drain(bool final) {
  Delta delta;
  if (state_ == State::kStart) {
    if (!final && pending_.size() < kThink.size() && absl::StartsWith(kThink, pending_)) {
      return delta;
    }
    const bool opened = absl::StartsWith(pending_, kThink);
    if (opened) pending_.erase(0, kThink.size());
    has_reasoning_ = has_reasoning_ || opened;
    state_ = has_reasoning_ ? State::kReasoning : State::kContent;
  }
  if (state_ == State::kReasoning) {
    const size_t end = pending_.find(kEndThink.data(), 0, kEndThink.size());
    if (end == pending_.npos) {
      const size_t held = final ? 0 : PossibleStart(pending_, kEndThink);
      delta.reasoning = pending_.substr(0, pending_.size() - held);
      pending_.erase(0, pending_.size() - held);
      return delta;
    }
    delta.reasoning = pending_.substr(0, end);
    pending_.erase(0, end + kEndThink.size());
    state_ = State::kContent;
  }
  delta.content.swap(pending_);
  return delta;
}

}  // namespace shoal
