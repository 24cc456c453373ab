// SPDX-License-Identifier: Apache-2.0
// One choice of a request: its tokens become text, thoughts, log-probabilities and an end, whether
// they come one by one or all at once.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "coordinator/api/openai_request.h"
#include "coordinator/api/stop_matcher.h"
#include "coordinator/core/request.h"
#include "engine/config/sampling_params.h"
#include "engine/text/reasoning_splitter.h"
#include "engine/text/stream_decoder.h"
#include "engine/text/tokenizer.h"

namespace shoal {

// A token that is part of the shown text.
struct ShownToken {
  int32_t token = 0;
  int64_t text_offset = 0;                // code points of the choice's text before it
  std::optional<TokenLogprobs> logprobs;  // none: the first token of an echoed prompt
};

// What some emissions add to a choice.
struct ChoiceDelta {
  std::string text;                // completion text, or a chat message's content
  std::string reasoning;           // reasoning_content
  bool has_reasoning = false;      // there was a thought, even an empty one
  std::vector<ShownToken> tokens;  // filled when log-probabilities were asked for
  FinishReason finish = FinishReason::kNone;

  bool empty() const { return text.empty() && reasoning.empty() && tokens.empty(); }
  void Append(ChoiceDelta more);
};

// Not thread-safe.
class ChoiceStream {
 public:
  // `tokenizer` and `request` outlive the stream.
  ChoiceStream(const Tokenizer& tokenizer, const ApiRequest& request);

  // The prompt's own text and tokens; before the first Push. `logprobs`: of tokens 1.., or empty.
  ChoiceDelta Echo(const ApiPrompt& prompt, absl::Span<const TokenLogprobs> logprobs);

  // The next tokens; `logprobs` is empty or has one for each. With `finish` they are the last. Does
  // nothing once finished.
  ChoiceDelta Push(absl::Span<const int32_t> tokens, absl::Span<const TokenLogprobs> logprobs,
                   FinishReason finish);

  bool finished() const { return finished_; }
  // A stop string ended the text: the core does not know yet that the choice is over.
  bool stopped_by_text() const { return stop_.matched(); }
  // Tokens pushed, those of a stop string included. An end token is never among them (Emit,
  // events.h).
  int64_t completion_tokens() const { return completion_tokens_; }

 private:
  struct PendingToken {
    ShownToken shown;
    size_t begin = 0;  // bytes of text decoded before it
  };

  // Takes text that was decoded, gives out what may be shown.
  void Show(const std::string& decoded, ChoiceDelta& delta);
  void Release(const std::string& shown, ChoiceDelta& delta);

  const Tokenizer& tokenizer_;
  const ApiRequest& request_;
  StreamDecoder decoder_;
  StopMatcher stop_;
  ReasoningSplitter splitter_;
  bool finished_ = false;
  int64_t completion_tokens_ = 0;
  int64_t chars_ = 0;          // code points decoded, echo included
  size_t decoded_bytes_ = 0;   // without echo
  size_t released_bytes_ = 0;  // of those, past the stop matcher
  std::deque<PendingToken> pending_;
};

}  // namespace shoal
