// SPDX-License-Identifier: Apache-2.0
// Shows that the expert planner balances as the published algorithm does:
// tests/golden/eplb/eplb.jsonl holds load matrices and the slots that the published program (with a
// stable sort) gave them. Then shows, over random load matrices, that planned placements keep the
// rule of holders and stay balanced.
#include <algorithm>
#include <cmath>
#include <fstream>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "coordinator/core/expert_planner.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace shoal {
namespace {

TEST(ExpertPlannerGolden, EqualsThePublishedAlgorithm) {
  std::ifstream in(SHOAL_SOURCE_DIR "/tests/golden/eplb/eplb.jsonl");
  int cases = 0;
  for (std::string line; std::getline(in, line); ++cases) {
    const nlohmann::json golden = nlohmann::json::parse(line);
    const BalanceShape shape{golden["physical"], golden["groups"], golden["nodes"],
                             golden["ranks"]};
    for (size_t layer = 0; layer < golden["load"].size(); ++layer) {
      const auto load = golden["load"][layer].get<std::vector<float>>();
      const auto slots = BalanceExperts(load, shape);
      ASSERT_TRUE(slots.ok()) << golden["name"] << ": " << slots.status();
      EXPECT_EQ(*slots, golden["phy2log"][layer].get<std::vector<int>>())
          << golden["name"] << " layer " << layer;
    }
  }
  EXPECT_EQ(cases, 20);
}

TEST(ExpertPlanner, RefusesShapesThatDoNotDivide) {
  const std::vector<float> load(12, 1.0f);
  for (const BalanceShape& shape :
       {BalanceShape{8, 1, 1, 4}, BalanceShape{14, 1, 1, 4}, BalanceShape{16, 5, 1, 4},
        BalanceShape{16, 4, 0, 4}, BalanceShape{16, 4, 2, 0}}) {
    EXPECT_EQ(BalanceExperts(load, shape).status().code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(PlanPlacement({{load}, {0, 0, 1}, 4, 0}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(ExpertPlanner, EveryExpertKeepsItsHolders) {
  const uint64_t seed = 20;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937_64 random(seed);
  for (int round = 0; round < 400; ++round) {
    PlacementRequest request;
    const int hosts = 1 + random() % 4, ranks = hosts * (1 + random() % 4),
              experts = ranks + random() % 40;
    for (int r = 0; r < ranks; ++r) request.host_of_rank.push_back(r * hosts / ranks);
    request.holders = 1 + random() % std::min(3, ranks);
    request.redundant_experts = random() % 9;
    std::vector<float> load(experts);
    for (float& value : load) value = std::pow(static_cast<float>(random() % 1000), 2.0f);
    request.load = {{}, load, std::vector<float>(experts, 0.0f)};

    const auto placement = PlanPlacement(request);
    ASSERT_TRUE(placement.ok()) << placement.status();
    EXPECT_EQ(*placement, *PlanPlacement(request));
    for (int layer = 1; layer < 3; ++layer) {
      std::vector<int> held(ranks, 0);
      int copies = 0;
      for (int e = 0; e < experts; ++e) {
        const auto holders = placement->Holders(layer, ExpertId(e));
        EXPECT_GE(static_cast<int>(holders.size()), request.holders);
        std::set<int> on_hosts;
        for (RankId rank : holders) {
          on_hosts.insert(request.host_of_rank[rank.value()]);
          ++held[rank.value()];
          ++copies;
        }
        EXPECT_GE(on_hosts.size(), std::min<size_t>(2, std::min(hosts, request.holders)))
            << "expert " << e << " of " << ranks << " ranks on " << hosts << " hosts";
      }
      EXPECT_EQ(copies, experts * request.holders + std::min(request.redundant_experts,
                                                             experts * (ranks - request.holders)));
      EXPECT_LE(*std::max_element(held.begin(), held.end()), (copies + ranks - 1) / ranks + 1);
    }
  }
}

}  // namespace
}  // namespace shoal
