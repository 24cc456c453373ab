// SPDX-License-Identifier: Apache-2.0
// Shows which units can be started: that what --workers, --holders and --redundant-experts ask for
// is planned, or refused with what was wanted. The model is a list of layers; none is opened.
#include "deploy/shoal/placement_files.h"

#include <string>
#include <tuple>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;

// A dense layer, then two with 16 experts in 4 groups.
ModelConfig ThreeLayers() {
  ModelConfig model;
  model.layers.resize(3);
  for (int layer : {1, 2}) {
    MoeConfig moe;
    moe.router.n_routed_experts = 16;
    moe.router.n_group = 4;
    model.layers[layer].ffn = moe;
  }
  return model;
}

ShoalConfig Unit(int workers, int holders, int redundant_experts) {
  ShoalConfig config;
  config.workers = workers;
  config.holders = holders;
  config.redundant_experts = redundant_experts;
  return config;
}

std::string Said(const ShoalConfig& config) {
  return OpenPlacement(config, ThreeLayers()).status().ToString();
}

TEST(PlacementFiles, PlannedUnitsMayHaveMoreWorkersThanExperts) {
  for (const auto& [workers, holders, redundant] :
       {std::tuple(16, 1, 0), {20, 2, 0}, {32, 2, 0}, {20, 1, 4}, {37, 2, 5}, {40, 2, 0}}) {
    SCOPED_TRACE(testing::Message() << workers << " workers, " << holders << " holders");
    const auto placement = OpenPlacement(Unit(workers, holders, redundant), ThreeLayers());
    ASSERT_TRUE(placement.ok()) << placement.status();
    EXPECT_EQ(placement->world_size(), workers);
    const size_t all = 16 * holders + redundant;
    for (int layer : {1, 2}) {
      size_t copies = 0;
      for (int rank = 0; rank < workers; ++rank) {
        const size_t held = placement->HeldBy(layer, RankId(rank)).size();
        EXPECT_GE(held, all / workers) << "rank " << rank;  // with too few copies, none
        copies += held;
      }
      EXPECT_EQ(copies, all);
    }
  }
  EXPECT_THAT(Said(Unit(17, 1, 0)), HasSubstr("--workers 17: layer 1 has 16 routed experts: want "
                                              "1..16 workers, found 17"));
}

}  // namespace
}  // namespace shoal
