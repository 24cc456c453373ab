// SPDX-License-Identifier: Apache-2.0
// Shows that a model's cost, counted from its config, equals what is known of the released models:
// their published parameter counts, their cache sizes, and the bytes that a decode step moves.
#include "engine/config/model_cost.h"

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/config/expert_placement.h"
#include "engine/config/read_model_config.h"
#include "engine/config/tensor_manifest.h"
#include "engine/weights/checkpoint.h"
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
  const int64_t all = cost.moe_layers * cost.n_routed_experts;
  EXPECT_EQ(cost.BytesWithExperts(all), cost.total_bytes);
  for (int ranks : {1, 3, 4, 64}) {
    const auto placement = *ExpertPlacement::Contiguous(ranks, config.RoutedExperts());
    for (int rank = 0; rank < ranks; ++rank) {
      int64_t held = 0;
      int64_t bytes = 0;
      for (const TensorSpec& spec : CheckpointTensors(config)) {
        if (IsOwned(spec, placement, RankId(rank))) bytes += 2 * spec.elements();
      }
      for (int layer = 0; layer < placement.layers(); ++layer) {
        held += static_cast<int64_t>(placement.HeldBy(layer, RankId(rank)).size());
      }
      EXPECT_EQ(held, cost.moe_layers *
                          ExpertPlacement::ContiguousShare(cost.n_routed_experts, ranks, rank));
      EXPECT_EQ(cost.BytesWithExperts(held), bytes);
    }
  }
}

// DeepSeek: "The total size of DeepSeek-V3 models on Hugging Face is 685B, which includes 671B of
// the main model weights and 14B of the multi-token prediction (MTP) module weights."
TEST(ModelCost, MultiTokenPredictionIsCountedApart) {
  const ModelCost v3 = CostOf(kConfigV3);
  EXPECT_NEAR(v3.prediction_parameters / 1e9, 13.46, 0.01);
  EXPECT_NEAR((v3.total_parameters + v3.prediction_parameters) / 1e9, 684.49, 0.01);
  EXPECT_EQ(CostOf(kConfigV2).prediction_parameters, 0);
}

// Every tensor of the bundled checkpoint, those of multi-token prediction included, to the last
// parameter.
TEST(ModelCost, EqualsWhatACheckpointHolds) {
  const std::string folder = std::string(SHOAL_SOURCE_DIR) + "/deploy/models/shoal-tiny";
  const ModelConfig config = *ReadModelConfig(folder);
  const auto checkpoint = Checkpoint::Open(folder);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  int64_t main = 0, prediction = 0;
  for (const auto& [name, location] : (*checkpoint)->tensors()) {
    int64_t elements = 1;
    for (int64_t dim : location.entry->shape) elements *= dim;
    const bool extra = absl::StartsWith(
        name, absl::StrCat("model.layers.", config.layers.size(), "."));
    (extra ? prediction : main) += elements;
  }
  const ModelCost cost = ComputeModelCost(config);
  EXPECT_EQ(cost.total_parameters, main);
  EXPECT_EQ(cost.prediction_parameters, prediction);
  EXPECT_GT(prediction, 0);
}

// The largest numbers that a config may hold: counted without listing, and within 64 bits.
TEST(ModelCost, AbsurdConfigsAreCountedAtOnce) {
  ModelConfig config = *ParseModelConfig(kConfigV3, "");
  LayerConfig layer = config.layers.back();
  auto& moe = std::get<MoeConfig>(layer.ffn);
  moe.router.n_routed_experts = 8192;
  moe.moe_intermediate_size = config.hidden_size = 1 << 18;
  config.layers.assign(1024, layer);
  const absl::Time start = absl::Now();
  const ModelCost cost = ComputeModelCost(config);
  int seen = 0;
  VisitCheckpointTensors(config, [&](const TensorSpec&) { return ++seen < 100; });
  EXPECT_LT(absl::Now() - start, absl::Seconds(1));
  EXPECT_EQ(seen, 100);
  EXPECT_GT(cost.total_parameters, int64_t{1024} * 8192 * 3 << 36);
  EXPECT_GT(cost.total_bytes, cost.total_parameters);
}

}  // namespace
}  // namespace shoal
