// SPDX-License-Identifier: Apache-2.0
// Shows that a placement covers every expert for any number of ranks, that replicas are chosen by a
// fixed rule, and that what does not describe a placement is refused with layer and expert.
#include "engine/config/expert_placement.h"
#include "engine/config/expert_targets.h"

#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shoal {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(ExpertPlacement, ContiguousCoversEveryExpertOnceForAnyNumberOfRanks) {
  const std::vector<int> experts = {0, 10, 7};
  for (int world = 1; world <= 7; ++world) {
    const auto placement = ExpertPlacement::Contiguous(world, experts);
    ASSERT_TRUE(placement.ok()) << placement.status();
    EXPECT_EQ(placement->n_routed_experts(0), 0);
    for (int layer = 1; layer < 3; ++layer) {
      int held = 0;
      for (int rank = 0; rank < world; ++rank) {
        const auto mine = placement->HeldBy(layer, RankId(rank));
        EXPECT_GE(static_cast<int>(mine.size()), experts[layer] / world);
        EXPECT_LE(static_cast<int>(mine.size()), (experts[layer] + world - 1) / world);
        for (ExpertId expert : mine) {
          EXPECT_EQ(expert.value(), held++);
          EXPECT_EQ(ExpertTargets(*placement, RankId(0)).Of(layer, expert), RankId(rank));
        }
      }
      EXPECT_EQ(held, experts[layer]);
    }
  }
  EXPECT_THAT(ExpertPlacement::Contiguous(8, experts).status().message(),
              HasSubstr("layer 2 has 7 routed experts"));
  EXPECT_FALSE(ExpertPlacement::Contiguous(0, experts).ok());
  EXPECT_TRUE(ExpertPlacement::Contiguous(5, std::vector<int>{0, 0}).ok());
}

// How many experts of a layer each rank computes for `source`.
std::vector<int> Loads(const ExpertPlacement& placement, int layer, RankId source,
                       absl::Span<const int> hosts = {}) {
  const ExpertTargets targets(placement, source, hosts);
  std::vector<int> loads(placement.world_size());
  for (int e = 0; e < placement.n_routed_experts(layer); ++e) {
    const auto holders = placement.Holders(layer, ExpertId(e));
    const RankId target = targets.Of(layer, ExpertId(e));
    EXPECT_NE(std::find(holders.begin(), holders.end(), target), holders.end());
    ++loads[target.value()];
  }
  return loads;
}

TEST(ExpertTargets, CopiesForSafetyKeepTheRowsOfAnExpertTogether) {
  const std::vector<RankId> low = {RankId(0), RankId(1)};
  const std::vector<RankId> high = {RankId(2), RankId(3)};
  const auto placement =
      ExpertPlacement::Create(4, {{low, low, high, high, low, high, high, low}});
  ASSERT_TRUE(placement.ok());
  for (int e = 0; e < 8; ++e) {
    for (int source = 1; source < 4; ++source) {
      EXPECT_EQ(ExpertTargets(*placement, RankId(source)).Of(0, ExpertId(e)),
                ExpertTargets(*placement, RankId(0)).Of(0, ExpertId(e)));
    }
  }
  EXPECT_THAT(Loads(*placement, 0, RankId(0)), ElementsAre(2, 2, 2, 2));
  // Without one rank the other holders of its experts have them, and are spared others.
  const auto left = placement->Without({RankId(1)});
  EXPECT_THAT(Loads(*left, 0, RankId(0)), ElementsAre(4, 0, 2, 2));
}

TEST(ExpertTargets, CopiesForLoadShareTheRows) {
  // Expert 0 has one more than the others: half of the sources each, a holder itself.
  const auto placement = ExpertPlacement::Create(4, {{{RankId(1), RankId(3)}, {RankId(0)}}});
  ASSERT_TRUE(placement.ok());
  const auto target = [&](int source) {
    return ExpertTargets(*placement, RankId(source)).Of(0, ExpertId(0));
  };
  EXPECT_EQ(target(1), RankId(1));
  EXPECT_EQ(target(3), RankId(3));
  EXPECT_NE(target(0), target(2));
  EXPECT_THAT(placement->HeldBy(0, RankId(3)), ElementsAre(ExpertId(0)));
  EXPECT_TRUE(placement->HeldBy(0, RankId(2)).empty());
}

TEST(ExpertTargets, RowsStayOnTheirHostWhereTheyCan) {
  const std::vector<RankId> both = {RankId(0), RankId(2)};
  const auto placement = ExpertPlacement::Create(
      4, {{both, both, {RankId(1), RankId(3)}, {RankId(1), RankId(3)}, {RankId(3)}}});
  ASSERT_TRUE(placement.ok());
  const int hosts[] = {7, 7, 8, 8};
  EXPECT_THAT(Loads(*placement, 0, RankId(0), hosts), ElementsAre(2, 2, 0, 1));
  EXPECT_THAT(Loads(*placement, 0, RankId(1), hosts), ElementsAre(2, 2, 0, 1));
  EXPECT_THAT(Loads(*placement, 0, RankId(2), hosts), ElementsAre(0, 0, 2, 3));
}

TEST(ExpertPlacement, WithoutAbsentRanksTheOthersKeepWhatTheyHold) {
  const auto full = ExpertPlacement::Create(
      4, {{}, {{RankId(0), RankId(2)}, {RankId(1), RankId(2), RankId(3)}, {RankId(3)}}});
  ASSERT_TRUE(full.ok());
  EXPECT_EQ(*full->Without({}), *full);
  const auto left = full->Without({RankId(2), RankId(1), RankId(2)});
  ASSERT_TRUE(left.ok()) << left.status();
  EXPECT_EQ(left->world_size(), 4);
  EXPECT_THAT(left->Holders(1, ExpertId(0)), ElementsAre(RankId(0)));
  EXPECT_THAT(left->Holders(1, ExpertId(1)), ElementsAre(RankId(3)));
  EXPECT_EQ(left->HeldBy(1, RankId(3)), full->HeldBy(1, RankId(3)));
  EXPECT_TRUE(left->HeldBy(1, RankId(2)).empty());
  for (int source = 0; source < 4; ++source) {
    EXPECT_EQ(ExpertTargets(*left, RankId(source)).Of(1, ExpertId(1)), RankId(3));
  }
  // Ranks that are none are absent anyway.
  EXPECT_EQ(*full->Without({RankId(-1), RankId(4)}), *full);
  const absl::Status lacking = full->Without({RankId(3), RankId(0)}).status();
  EXPECT_EQ(lacking.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(lacking.message(), "layer 1 expert 2: no holder is left of ranks 3");
}

TEST(ExpertPlacement, JsonBothWays) {
  const auto placement = ExpertPlacement::Create(3, {{}, {{RankId(0), RankId(2)}, {RankId(1)}}});
  ASSERT_TRUE(placement.ok());
  const auto back = ExpertPlacement::FromJson(placement->ToJson());
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(*back, *placement);
}

TEST(ExpertPlacement, RefusesWhatIsNoPlacement) {
  for (const auto& [json, message] : std::vector<std::pair<std::string, std::string>>{
           {"", "not valid JSON"},
           {"[]", "want a JSON object"},
           {"{}", "world_size"},
           {R"({"world_size": 0, "layers": []})", "world_size"},
           {R"({"world_size": 1e9, "layers": []})", "world_size"},
           {R"({"world_size": 99999999999999999999, "layers": []})", "world_size"},
           {R"({"world_size": 2})", "layers"},
           {R"({"world_size": 2, "layers": [5]})", "layer 0"},
           {R"({"world_size": 2, "layers": [[], [[0], 7]]})", "layer 1 expert 1"},
           {R"({"world_size": 2, "layers": [[], [[0], []]]})", "layer 1 expert 1: no rank"},
           {R"({"world_size": 2, "layers": [[[2]]]})", "layer 0 expert 0: rank 2, want 0..1"},
           {R"({"world_size": 2, "layers": [[[-1]]]})", "layer 0 expert 0"},
           {R"({"world_size": 2, "layers": [[[1, 0]]]})", "ascending"},
           {R"({"world_size": 2, "layers": [[[1, 1]]]})", "ascending"},
           {R"({"world_size": 2, "layers": [[["\ud800"]]]})", "not valid JSON"},
           {R"({"world_size": 2, "layers": [], "layers": []})", "layers occurs twice"},
           {std::string(100000, '['), "nested too deep"}}) {
    const auto placement = ExpertPlacement::FromJson(json);
    EXPECT_EQ(placement.status().code(), absl::StatusCode::kInvalidArgument) << json;
    EXPECT_THAT(placement.status().message(), HasSubstr(message)) << json;
  }
}

}  // namespace
}  // namespace shoal
