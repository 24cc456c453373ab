// SPDX-License-Identifier: Apache-2.0
// Shows that a placement covers every expert for any number of ranks, that replicas are chosen by a
// fixed rule, and that what does not describe a placement is refused with layer and expert.
#include "engine/config/expert_placement.h"

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
          EXPECT_EQ(placement->Target(layer, expert, RankId(0)), RankId(rank));
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

TEST(ExpertPlacement, TargetPrefersTheSourceAndSpreadsTheRest) {
  const auto placement = ExpertPlacement::Create(4, {{{RankId(1), RankId(3)}, {RankId(0)}}});
  ASSERT_TRUE(placement.ok());
  EXPECT_EQ(placement->Target(0, ExpertId(0), RankId(1)), RankId(1));
  EXPECT_EQ(placement->Target(0, ExpertId(0), RankId(3)), RankId(3));
  EXPECT_EQ(placement->Target(0, ExpertId(1), RankId(3)), RankId(0));
  EXPECT_NE(placement->Target(0, ExpertId(0), RankId(0)),
            placement->Target(0, ExpertId(0), RankId(5)));
  EXPECT_THAT(placement->HeldBy(0, RankId(3)), ElementsAre(ExpertId(0)));
  EXPECT_TRUE(placement->HeldBy(0, RankId(2)).empty());
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
