// SPDX-License-Identifier: Apache-2.0
// What a client asked, validated and tokenised: the unit the core admits, runs and finishes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "engine/base/ids.h"
#include "engine/config/sampling_params.h"

namespace shoal {

inline constexpr int32_t kMaxChoices = 128;  // Request::n; more is InvalidArgument

struct Request {
  RequestId id;                        // chosen by the API, unique for the coordinator's life
  std::vector<int32_t> prompt;         // at least one token, all < vocab_size
  int32_t max_tokens = 16;             // generated tokens per choice; prompt + max_tokens fits the context. 0: only
                                       // prompt log-probabilities are wanted
  int32_t n = 1;                       // choices; choice i uses seed `sampling.seed + i`
  SamplingParams sampling;
  int32_t priority = 0;                // lower runs first; equal priorities share fairly between users
  std::string user;                    // fairness key; empty is a user too
  absl::Time deadline = absl::InfiniteFuture();
};

enum class FinishReason : uint8_t { kNone, kStop, kLength, kCancelled, kError };

}  // namespace shoal
