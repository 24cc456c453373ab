// SPDX-License-Identifier: Apache-2.0
// Shows that a model's cost, counted from its config, equals what is known of the released models:
// their published parameter counts, their cache sizes, and the bytes that a decode step moves.
#include "engine/config/model_cost.h"

#include "gtest/gtest.h"
#include "tests/unit/released_configs.h"

namespace shoal {
namespace {

ModelCost CostOf(const char* config_json) {
  return ComputeModelCost(*ParseModelConfig(config_json, ""));
}

TEST(ModelCost, ParametersOfTheReleasedModels) {
  const ModelCost v2 = CostOf(kConfigV2), lite = CostOf(kConfigV2Lite), v3 = CostOf(kConfigV3);
  EXPECT_NEAR(v2.total_parameters / 1e9, 235.741, 0.001);
  EXPECT_NEAR(v2.active_parameters / 1e9, 20.85, 0.01);
  EXPECT_NEAR((v2.active_parameters + v2.embedding_parameters) / 1e9, 21.38, 0.01);
  EXPECT_NEAR(v2.expert_parameters / 1e6, 23.59, 0.01);
  EXPECT_NEAR(lite.total_parameters / 1e9, 15.706, 0.001);
  EXPECT_NEAR(lite.active_parameters / 1e9, 2.45, 0.01);
  EXPECT_NEAR(lite.expert_parameters / 1e6, 8.65, 0.01);
  EXPECT_NEAR(v3.total_parameters / 1e9, 671.026, 0.001);
  EXPECT_NEAR(v3.active_parameters / 1e9, 36.63, 0.01);
  EXPECT_NEAR((v3.active_parameters + v3.embedding_parameters) / 1e9, 37.55, 0.01);
  EXPECT_NEAR(v3.expert_parameters / 1e6, 44.04, 0.01);
}

TEST(ModelCost, CacheBesideOtherAttentions) {
  const ModelCost v2 = CostOf(kConfigV2), lite = CostOf(kConfigV2Lite), v3 = CostOf(kConfigV3);
  EXPECT_EQ(v2.cache_bytes_per_token, 69120);
  EXPECT_EQ(v2.mha_bytes_per_token, 4915200);
  EXPECT_EQ(v2.gqa_8_bytes_per_token, 245760);
  EXPECT_EQ(lite.cache_bytes_per_token, 31104);
  EXPECT_EQ(lite.mha_bytes_per_token, 276480);
  EXPECT_EQ(v3.cache_bytes_per_token, 70272);
  EXPECT_EQ(v3.mha_bytes_per_token, 4997120);
  EXPECT_EQ(v3.gqa_8_bytes_per_token, 249856);
}

TEST(ModelCost, FlopsAndBytesOfADecodedToken) {
  const ModelCost v2 = CostOf(kConfigV2), lite = CostOf(kConfigV2Lite), v3 = CostOf(kConfigV3);
  EXPECT_NEAR(v3.FlopsPerToken(0) / 1e9, 73.3, 0.1);
  EXPECT_NEAR(v3.attention_flops_per_context_token / 1e6, 17.0, 0.05);
  EXPECT_NEAR(lite.attention_flops_per_context_token / 1e6, 0.94, 0.005);
  EXPECT_NEAR(v2.fixed_bytes / 1e9, 25.0, 0.1);
  EXPECT_NEAR(lite.fixed_bytes / 1e9, 2.20, 0.01);
  EXPECT_NEAR(v3.fixed_bytes / 1e9, 17.2, 0.1);
  EXPECT_NEAR(v3.expert_bytes / 1e6, 44.05, 0.01);
  const auto experts_read = [](const ModelCost& cost, int batch) {
    return (cost.BytesPerStep(batch, 0) - cost.fixed_bytes) / 1e9;
  };
  EXPECT_NEAR(experts_read(v3, 1), 20.4, 0.1);
  EXPECT_NEAR(experts_read(v3, 8), 147, 1);
  EXPECT_NEAR(experts_read(v3, 64), 568, 1);
  EXPECT_NEAR(experts_read(v2, 8), 117, 1);
  EXPECT_NEAR(v3.BytesPerStep(4, 1000) - v3.BytesPerStep(4, 0), 4 * 1000 * 70272.0, 1);
}

TEST(ModelCost, RanksShareTheExpertsAndNothingElse) {
  const ModelConfig config = *ParseModelConfig(kConfigV2Lite, "");
  const ModelCost cost = ComputeModelCost(config);
  const auto routed = config.RoutedExperts();
  EXPECT_EQ(WeightBytesOfRank(config, *ExpertPlacement::Contiguous(1, routed), RankId(0)),
            cost.total_bytes);
  const int64_t all_experts = cost.moe_layers * cost.n_routed_experts * cost.expert_bytes;
  const auto four = *ExpertPlacement::Contiguous(4, routed);
  int64_t sum = 0;
  for (int rank = 0; rank < 4; ++rank) {
    const int64_t bytes = WeightBytesOfRank(config, four, RankId(rank));
    EXPECT_EQ(bytes, cost.total_bytes - all_experts + all_experts / 4);
    sum += bytes;
  }
  EXPECT_EQ(sum, 4 * (cost.total_bytes - all_experts) + all_experts);
}

}  // namespace
}  // namespace shoal
