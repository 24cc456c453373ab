// SPDX-License-Identifier: Apache-2.0
// From logits to the next token. Deterministic: the choice is a function of the logits, the
// parameters and the sequence's own tokens; randomness comes from a counter-based generator keyed
// by (seed, position).
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/config/sampling_params.h"

namespace shoal {

// Not thread-safe: holds scratch of the vocabulary's size, so that sampling allocates nothing.
class Sampler {
 public:
  // Logits have `vocab_size` entries; ids from `token_limit` on have no text (padding rows of the
  // embedding) and are never chosen. Requires 0 < token_limit <= vocab_size.
  Sampler(int vocab_size, int token_limit);

  // The token that follows `tokens` (prompt, then generated ones), of which the first
  // `prompt_tokens` are the prompt.
  //
  // Order: repetition penalty, presence and frequency penalties, logit_bias, mask of end tokens
  // below min_tokens, temperature, top_k, top_p, min_p. Equal logits rank by lower id. logits [V]
  // f32. Errors: Internal when a logit is NaN or none is finite.
  absl::StatusOr<int32_t> Sample(absl::Span<const float> logits, const SamplingParams& params,
                                 absl::Span<const int32_t> tokens, int32_t prompt_tokens);

  // Log-probability of `token`, and of the `top` most probable tokens, in the model's own
  // distribution: before penalties, temperature and cuts. `out.top` keeps its capacity. Errors as
  // of Sample.
  absl::Status Logprobs(absl::Span<const float> logits, int32_t token, int top, TokenLogprobs& out);

 private:
  struct Candidate {
    float logit;
    int32_t id;
  };
  static bool RanksBefore(const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  }

  absl::Status CheckLogits(absl::Span<const float> logits) const;
  void AdjustLogits(const SamplingParams& params, absl::Span<const int32_t> tokens,
                    int32_t prompt_tokens);
  int32_t Greedy() const;
  int32_t Draw(const SamplingParams& params, uint64_t position);

  int vocab_size_;
  int token_limit_;
  std::vector<float> adjusted_;        // [token_limit]
  std::vector<int32_t> counts_;        // [token_limit], all zero between calls
  std::vector<Candidate> candidates_;  // capacity token_limit
};

}  // namespace shoal
