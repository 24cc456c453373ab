// SPDX-License-Identifier: Apache-2.0
#include "engine/device/reference/router.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace shoal::reference {
namespace {

void Softmax(const float* logits, int n, float* scores) {
  const float largest = *std::max_element(logits, logits + n);
  float total = 0;
  for (int e = 0; e < n; ++e) {
    scores[e] = std::exp(logits[e] - largest);
    total += scores[e];
  }
  for (int e = 0; e < n; ++e) scores[e] /= total;
}

void Sigmoid(const float* logits, int n, float* scores) {
  for (int e = 0; e < n; ++e) scores[e] = 1.0f / (1.0f + std::exp(-logits[e]));
}

// A group is as good as its best expert or, for noaux_tc, as its two best together.
float GroupScore(TopkMethod method, const float* selection, int group_size) {
  float best = -std::numeric_limits<float>::infinity();
  float second = best;
  for (int e = 0; e < group_size; ++e) {
    if (selection[e] > best) {
      second = best;
      best = selection[e];
    } else if (selection[e] > second) {
      second = selection[e];
    }
  }
  return method == TopkMethod::kNoAuxTc ? best + second : best;
}

}  // namespace

void Router::KeepBestGroups(const RouterConfig& config) {
  const int group_size = config.n_routed_experts / config.n_group;
  group_scores_.resize(config.n_group);
  for (int g = 0; g < config.n_group; ++g) {
    group_scores_[g] =
        GroupScore(config.topk_method, selection_.data() + g * group_size, group_size);
  }
  for (int g = 0; g < config.n_group; ++g) {
    int better = 0;
    for (int other = 0; other < config.n_group; ++other) {
      better += group_scores_[other] > group_scores_[g] ||
                (group_scores_[other] == group_scores_[g] && other < g);
    }
    if (better < config.topk_group) continue;
    std::fill_n(eligible_.begin() + g * group_size, group_size, 0);
  }
}

void Router::Route(const RouterConfig& config, const float* logits, const float* bias,
                   int32_t* experts, float* weights) {
  const int n = config.n_routed_experts;
  scores_.resize(n);
  selection_.resize(n);
  eligible_.assign(n, 1);
  (config.scoring_func == ScoringFunc::kSoftmax ? Softmax : Sigmoid)(logits, n, scores_.data());
  for (int e = 0; e < n; ++e) selection_[e] = scores_[e] + (bias == nullptr ? 0.0f : bias[e]);
  if (config.topk_method != TopkMethod::kGreedy) KeepBestGroups(config);

  float total = 0;
  for (int k = 0; k < config.num_experts_per_tok; ++k) {
    int best = -1;
    for (int e = 0; e < n; ++e) {
      if (eligible_[e] && (best < 0 || selection_[e] > selection_[best])) best = e;
    }
    eligible_[best] = 0;
    experts[k] = best;
    weights[k] = scores_[best];
    total += scores_[best];
  }
  for (int k = 0; k < config.num_experts_per_tok; ++k) {
    if (config.norm_topk_prob) weights[k] /= total + 1e-20f;
    weights[k] *= config.routed_scaling_factor;
  }
}

}  // namespace shoal::reference
