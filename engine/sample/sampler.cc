// SPDX-License-Identifier: Apache-2.0
#include "engine/sample/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/sample/philox.h"

namespace shoal {

constexpr float kMasked = -std::numeric_limits<float>::infinity();

Sampler::Sampler(int vocab_size, int token_limit)
    : vocab_size_(vocab_size),
      token_limit_(token_limit),
      adjusted_(token_limit),
      counts_(token_limit, 0) {
  SHOAL_CHECK(0 < token_limit && token_limit <= vocab_size);
  candidates_.reserve(token_limit);
}

absl::Status Sampler::CheckLogits(absl::Span<const float> logits) const {
  SHOAL_CHECK(static_cast<int>(logits.size()) == vocab_size_);
  bool any = false;
  for (int id = 0; id < token_limit_; ++id) {
    if (std::isnan(logits[id]) || logits[id] == std::numeric_limits<float>::infinity()) {
      return absl::InternalError(
          absl::StrCat("the logit of token ", id, " is ", logits[id], ", want a finite number"));
    }
    any |= logits[id] != kMasked;
  }
  if (!any) return absl::InternalError("no logit is finite");
  return absl::OkStatus();
}

void Sampler::AdjustLogits(const SamplingParams& params, absl::Span<const int32_t> tokens,
                           int32_t prompt_tokens) {
  const absl::Span<const int32_t> generated = tokens.subspan(prompt_tokens);
  if (params.repetition_penalty != 1.0f) {
    // Each token once, however often it occurred: counts_ marks those that were seen.
    for (int32_t id : tokens) {
      if (id < 0 || id >= token_limit_ || counts_[id]++ > 0) continue;
      float& logit = adjusted_[id];
      logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    }
    for (int32_t id : tokens) {
      if (id >= 0 && id < token_limit_) counts_[id] = 0;
    }
  }
  if (params.presence_penalty != 0.0f || params.frequency_penalty != 0.0f) {
    for (int32_t id : generated) {
      if (id >= 0 && id < token_limit_) ++counts_[id];
    }
    for (int32_t id : generated) {
      if (id < 0 || id >= token_limit_ || counts_[id] == 0) continue;
      adjusted_[id] -=
          params.presence_penalty + params.frequency_penalty * static_cast<float>(counts_[id]);
      counts_[id] = 0;
    }
  }
  for (const auto& [id, bias] : params.logit_bias) {
    if (id >= 0 && id < token_limit_) adjusted_[id] += bias;
  }
  if (static_cast<int32_t>(generated.size()) < params.min_tokens) {
    for (int32_t id : params.end_token_ids) {
      if (id >= 0 && id < token_limit_) adjusted_[id] = kMasked;
    }
  }
}

int32_t Sampler::Greedy() const {
  return static_cast<int32_t>(std::max_element(adjusted_.begin(), adjusted_.end()) -
                              adjusted_.begin());
}

int32_t Sampler::Draw(const SamplingParams& params, uint64_t position) {
  const float largest = *std::max_element(adjusted_.begin(), adjusted_.end());
  // min_p compares with the most probable token, which no cut removes: it may come first.
  const float floor =
      params.min_p > 0.0f ? largest + params.temperature * std::log(params.min_p) : kMasked;
  candidates_.clear();
  for (int32_t id = 0; id < token_limit_; ++id) {
    if (adjusted_[id] > kMasked && adjusted_[id] >= floor)
      candidates_.push_back({adjusted_[id], id});
  }
  if (params.top_k > 0 && params.top_k < static_cast<int32_t>(candidates_.size())) {
    std::nth_element(candidates_.begin(), candidates_.begin() + params.top_k, candidates_.end(),
                     RanksBefore);
    candidates_.resize(params.top_k);
    std::sort(candidates_.begin(), candidates_.end(), RanksBefore);
  }
  const auto weight = [&](const Candidate& candidate) {
    return std::exp((static_cast<double>(candidate.logit) - largest) / params.temperature);
  };
  double total = 0;
  for (const Candidate& candidate : candidates_) total += weight(candidate);
  if (params.top_p < 1.0f) {
    // The most probable tokens, one by one, until they hold top_p of the mass.
    const auto ranks_after = [](const Candidate& a, const Candidate& b) {
      return RanksBefore(b, a);
    };
    std::make_heap(candidates_.begin(), candidates_.end(), ranks_after);
    auto heap_end = candidates_.end();
    double mass = 0;
    do {
      std::pop_heap(candidates_.begin(), heap_end, ranks_after);
      --heap_end;
      mass += weight(*heap_end);
    } while (heap_end != candidates_.begin() && mass < params.top_p * total);
    // pop_heap moved the chosen ones to the back, best last.
    const auto kept = candidates_.end() - heap_end;
    std::reverse(candidates_.begin(), candidates_.end());
    candidates_.resize(kept);
    total = 0;
    for (const Candidate& candidate : candidates_) total += weight(candidate);
  }
  const double target = UniformAt(params.seed, position) * total;
  double mass = 0;
  for (const Candidate& candidate : candidates_) {
    mass += weight(candidate);
    if (mass > target) return candidate.id;
  }
  return candidates_.back().id;  // rounding left the target at the very end
}

absl::StatusOr<int32_t> Sampler::Sample(absl::Span<const float> logits,
                                        const SamplingParams& params,
                                        absl::Span<const int32_t> tokens, int32_t prompt_tokens) {
  SHOAL_CHECK(0 <= prompt_tokens && prompt_tokens <= static_cast<int32_t>(tokens.size()));
  SHOAL_RETURN_IF_ERROR(CheckLogits(logits));
  std::copy_n(logits.begin(), token_limit_, adjusted_.begin());
  AdjustLogits(params, tokens, prompt_tokens);
  if (*std::max_element(adjusted_.begin(), adjusted_.end()) == kMasked) {
    return absl::InternalError("every token is masked");
  }
  // A temperature so small that quotients overflow is greedy in all but name.
  if (params.temperature < 1e-5f) return Greedy();
  return Draw(params, tokens.size());
}

absl::Status Sampler::Logprobs(absl::Span<const float> logits, int32_t token, int top,
                               TokenLogprobs& out) {
  SHOAL_RETURN_IF_ERROR(CheckLogits(logits));
  SHOAL_CHECK(token >= 0 && token < vocab_size_);
  const float largest = *std::max_element(logits.begin(), logits.begin() + token_limit_);
  double total = 0;
  for (int id = 0; id < token_limit_; ++id)
    total += std::exp(static_cast<double>(logits[id]) - largest);
  const double log_total = largest + std::log(total);
  out.chosen = static_cast<float>(logits[token] - log_total);
  out.top.clear();
  if (top <= 0) return absl::OkStatus();
  candidates_.clear();
  for (int32_t id = 0; id < token_limit_; ++id) candidates_.push_back({logits[id], id});
  top = std::min(top, token_limit_);
  std::partial_sort(candidates_.begin(), candidates_.begin() + top, candidates_.end(), RanksBefore);
  for (int i = 0; i < top; ++i) {
    out.top.emplace_back(candidates_[i].id, static_cast<float>(candidates_[i].logit - log_total));
  }
  return absl::OkStatus();
}

}  // namespace shoal
