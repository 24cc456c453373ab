// SPDX-License-Identifier: Apache-2.0
// How one sequence's next token is chosen. Plain data: the API fills it, the coordinator carries
// it, the sampler obeys.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace shoal {

struct SamplingParams {
  float temperature = 1.0f;         // 0 is greedy
  float top_p = 1.0f;               // (0, 1]
  int32_t top_k = 0;                // 0 is off
  float min_p = 0.0f;               // [0, 1]; relative to the most probable token
  float presence_penalty = 0.0f;    // [-2, 2]; counts generated tokens
  float frequency_penalty = 0.0f;   // [-2, 2]; counts generated tokens
  float repetition_penalty = 1.0f;  // (0, inf); counts prompt and generated tokens
  uint64_t seed = 0;  // key of the counter-based generator; the counter is the token's position
  int32_t min_tokens = 0;  // end tokens (below) are masked until so many were generated
  // -1 none; 0..20: log-probability of the chosen token and so many best ones.
  int32_t top_logprobs = -1;
  bool prompt_logprobs = false;        // also for the prompt's tokens (`echo` with `logprobs`)
  std::vector<int32_t> end_token_ids;  // eos of the model unless ignore_eos, and stop_token_ids
  std::vector<std::pair<int32_t, float>> logit_bias;  // token id -> added to its logit

  bool operator==(const SamplingParams&) const = default;
};

// What the model thought of one position. `top` is sorted by falling log-probability, ties to the
// lower id.
struct TokenLogprobs {
  // Natural logarithm, of the distribution before temperature, penalties and cuts.
  float chosen = 0.0f;
  std::vector<std::pair<int32_t, float>> top;

  bool operator==(const TokenLogprobs&) const = default;
};

}  // namespace shoal
