// SPDX-License-Identifier: Apache-2.0
// See choice_stream.h. The way of the text: decoder -> stop strings -> thoughts apart. A token is
// shown when the first byte of its text has passed the stop matcher.
#include "coordinator/api/choice_stream.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/algorithm/container.h"

namespace shoal {
namespace {

int64_t CodePoints(absl::string_view text) {
  return absl::c_count_if(text, [](char c) { return (c & 0xC0) != 0x80; });
}

}  // namespace

void ChoiceDelta::Append(ChoiceDelta more) {
  text += more.text;
  reasoning += more.reasoning;
  has_reasoning = has_reasoning || more.has_reasoning;
  tokens.insert(tokens.end(), std::make_move_iterator(more.tokens.begin()),
                std::make_move_iterator(more.tokens.end()));
  if (more.finish != FinishReason::kNone) finish = more.finish;
}

ChoiceStream::ChoiceStream(const Tokenizer& tokenizer, const ApiRequest& request)
    : tokenizer_(tokenizer),
      request_(request),
      decoder_(tokenizer, /*skip_special=*/true),
      stop_(request.stop),
      splitter_(request.starts_in_reasoning) {}

ChoiceDelta ChoiceStream::Echo(const ApiPrompt& prompt, absl::Span<const TokenLogprobs> logprobs) {
  ChoiceDelta delta;
  StreamDecoder decoder(tokenizer_, /*skip_special=*/false);  // the client's text as it was
  for (size_t i = 0; i < prompt.ids.size(); ++i) {
    if (request_.sampling.top_logprobs >= 0) {
      ShownToken shown{prompt.ids[i], chars_, std::nullopt};
      if (i > 0 && i <= logprobs.size()) shown.logprobs = logprobs[i - 1];
      delta.tokens.push_back(std::move(shown));
    }
    if (i == 0 && prompt.bos_prepended) continue;
    const std::string text = decoder.Push(prompt.ids[i]);
    chars_ += CodePoints(text);
    delta.text += text;
  }
  const std::string rest = decoder.Flush();
  chars_ += CodePoints(rest);
  delta.text += rest;
  return delta;
}

ChoiceDelta ChoiceStream::Push(absl::Span<const int32_t> tokens,
                               absl::Span<const TokenLogprobs> logprobs, FinishReason finish) {
  ChoiceDelta delta;
  for (size_t i = 0; i < tokens.size() && !finished_; ++i) {
    ++completion_tokens_;
    if (request_.sampling.top_logprobs >= 0) {
      PendingToken pending;
      pending.shown.token = tokens[i];
      pending.shown.text_offset = chars_;
      if (i < logprobs.size()) pending.shown.logprobs = logprobs[i];
      pending.begin = decoded_bytes_;
      pending_.push_back(std::move(pending));
    }
    Show(decoder_.Push(tokens[i]), delta);
  }
  if (finished_) {  // by a stop string; what followed it in its token is not shown
    pending_.clear();
    return delta;
  }
  if (finish == FinishReason::kNone) return delta;
  finished_ = true;
  delta.finish = finish;
  Show(decoder_.Flush(), delta);
  Release(stop_.Flush(), delta);
  if (request_.reasons) {
    ReasoningSplitter::Delta rest = splitter_.Flush();
    delta.text += rest.content;
    delta.reasoning += rest.reasoning;
    delta.has_reasoning = splitter_.has_reasoning();
  }
  if (!stop_.matched()) {
    for (PendingToken& pending : pending_) delta.tokens.push_back(std::move(pending.shown));
  }
  pending_.clear();
  return delta;
}

void ChoiceStream::Show(const std::string& decoded, ChoiceDelta& delta) {
  chars_ += CodePoints(decoded);
  decoded_bytes_ += decoded.size();
  // As with end tokens, no stop string counts before min_tokens were generated.
  if (completion_tokens_ <= request_.sampling.min_tokens) return Release(decoded, delta);
  Release(stop_.Push(decoded), delta);
  if (stop_.matched() && !finished_) {
    finished_ = true;
    delta.finish = FinishReason::kStop;
    if (request_.reasons) {
      ReasoningSplitter::Delta rest = splitter_.Flush();
      delta.text += rest.content;
      delta.reasoning += rest.reasoning;
    }
  }
}

void ChoiceStream::Release(const std::string& shown, ChoiceDelta& delta) {
  released_bytes_ += shown.size();
  while (!pending_.empty() && pending_.front().begin < released_bytes_) {
    delta.tokens.push_back(std::move(pending_.front().shown));
    pending_.pop_front();
  }
  if (!request_.reasons) {
    delta.text += shown;
    return;
  }
  ReasoningSplitter::Delta split = splitter_.Push(shown);
  delta.text += split.content;
  delta.reasoning += split.reasoning;
  delta.has_reasoning = splitter_.has_reasoning();
}

}  // namespace shoal
