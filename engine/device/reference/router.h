// SPDX-License-Identifier: Apache-2.0
// Which experts a token goes to: DeepSeek-V2's softmax routers (arXiv:2405.04434 sec. 2.2) and
// DeepSeek-V3's noaux_tc (arXiv:2412.19437 eqs. 12-16).
#pragma once

#include <cstdint>
#include <vector>

#include "engine/config/model_config.h"

namespace shoal::reference {

class Router {
 public:
  // One token.
  //   logits  [E]  router output, before any activation
  //   bias    [E]  affects which experts win, never their weights (eq. 16); null for none
  //   experts [K]  out: logical ids by falling selection score, ties to the lower id
  //   weights [K]  out: scores of the chosen, normalised if the config says so, times
  //                routed_scaling_factor
  // K distinct ids of [0, E) come out whatever the logits are, NaN included.
  void Route(const RouterConfig& config, const float* logits, const float* bias, int32_t* experts,
             float* weights);

 private:
  void KeepBestGroups(const RouterConfig& config);

  std::vector<float> scores_;        // [E] softmax or sigmoid of the logits
  std::vector<float> selection_;     // [E] what the choice goes by: scores, plus the bias
  std::vector<float> group_scores_;  // [n_group]
  std::vector<char> eligible_;       // [E] in a kept group and not chosen yet
};

}  // namespace shoal::reference
