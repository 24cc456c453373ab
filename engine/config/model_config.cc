// SPDX-License-Identifier: Apache-2.0
#include "engine/config/model_config.h"

#include <algorithm>

namespace shoal {

absl::string_view GenerationName(Generation generation) {
  switch (generation) {
    case Generation::kV2:
      return "DeepSeek-V2";
    case Generation::kV3:
      return "DeepSeek-V3";
  }
  return "?";
}

std::vector<int> ModelConfig::RoutedExperts() const {
  std::vector<int> experts;
  experts.reserve(layers.size());
  for (const LayerConfig& layer : layers) {
    const auto* moe = std::get_if<MoeConfig>(&layer.ffn);
    experts.push_back(moe == nullptr ? 0 : moe->router.n_routed_experts);
  }
  return experts;
}

int ModelConfig::ExpertGroups() const {
  for (const LayerConfig& layer : layers) {
    const auto* moe = std::get_if<MoeConfig>(&layer.ffn);
    if (moe != nullptr) return moe->router.n_group;
  }
  return 1;
}

int ModelConfig::MaxRoutedExperts() const {
  int most = 0;
  for (int experts : RoutedExperts()) most = std::max(most, experts);
  return most;
}

int ModelConfig::MaxExpertsPerToken() const {
  int most = 0;
  for (const LayerConfig& layer : layers) {
    const auto* moe = std::get_if<MoeConfig>(&layer.ffn);
    if (moe != nullptr) most = std::max(most, moe->router.num_experts_per_tok);
  }
  return most;
}

}  // namespace shoal
