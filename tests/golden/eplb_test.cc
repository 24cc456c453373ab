// SPDX-License-Identifier: Apache-2.0
// Shows that the expert planner balances as the published algorithm does:
// tests/golden/eplb/eplb.jsonl holds load matrices and the slots that the published program (with a
// stable sort) gave them. Then shows that planned placements are those slots, whatever order ranks
// and hosts come in, and as well balanced where those have an expert on a rank twice; over random
// load matrices that they keep the rule of holders, keep groups together and stay balanced; and
// that equal loads do not burden the same ranks everywhere.
#include <algorithm>
#include <cmath>
#include <fstream>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "coordinator/core/expert_balance.h"
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

// Experts of each rank.
std::vector<std::set<int>> ByRank(const ExpertPlacement& placement, int layer) {
  std::vector<std::set<int>> held(placement.world_size());
  for (int e = 0; e < placement.n_routed_experts(layer); ++e) {
    for (RankId rank : placement.Holders(layer, ExpertId(e))) held[rank.value()].insert(e);
  }
  return held;
}

TEST(ExpertPlannerGolden, PlacementsAreThePublishedSlots) {
  std::ifstream in(SHOAL_SOURCE_DIR "/tests/golden/eplb/eplb.jsonl");
  int equal = 0;
  for (std::string line; std::getline(in, line);) {
    const nlohmann::json golden = nlohmann::json::parse(line);
    const int ranks = golden["ranks"], nodes = golden["nodes"], physical = golden["physical"];
    for (size_t layer = 0; layer < golden["load"].size(); ++layer) {
      PlacementRequest request;
      request.load = {golden["load"][layer].get<std::vector<float>>()};
      const int experts = static_cast<int>(request.load[0].size());
      request.redundant_experts = physical - experts;
      request.n_group = golden["groups"];
      // Hosts in turn: the ranks of a host are not neighbours.
      for (int r = 0; r < ranks; ++r) request.host_of_rank.push_back(r % nodes);
      const auto placement = PlanPlacement(request);
      ASSERT_TRUE(placement.ok()) << placement.status();
      const std::vector<std::set<int>> held = ByRank(*placement, 0);

      const auto slots = golden["phy2log"][layer].get<std::vector<int>>();
      std::vector<std::set<int>> published(ranks);
      size_t distinct = 0;
      for (int s = 0; s < physical; ++s) {
        const int place = s / (physical / ranks);
        const int rank = place % (ranks / nodes) * nodes + place / (ranks / nodes);
        published[rank].insert(slots[s]);
      }
      for (int r = 0; r < ranks; ++r) {
        distinct += published[r].size();
        // What the published program puts twice on one rank is exchanged.
        EXPECT_EQ(held[r].size(), physical / ranks) << golden["name"] << " rank " << r;
      }
      if (distinct != static_cast<size_t>(physical)) continue;
      EXPECT_EQ(held, published) << golden["name"] << " layer " << layer;
      ++equal;
    }
  }
  EXPECT_GE(equal, 12);
}

double MaxOverMean(const std::vector<double>& load) {
  return *std::max_element(load.begin(), load.end()) * static_cast<double>(load.size()) /
         std::accumulate(load.begin(), load.end(), 0.0);
}

TEST(ExpertPlanner, SecondCopiesOnARankAreExchanged) {
  const uint64_t seed = 22;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937_64 random(seed);
  for (const BalanceShape& shape :
       {BalanceShape{2048, 1, 1, 1024}, BalanceShape{512, 1, 1, 256}, BalanceShape{320, 1, 1, 64},
        BalanceShape{320, 8, 4, 32}, BalanceShape{320, 4, 2, 16}}) {
    int duplicates = 0;
    for (int round = 0; round < 10; ++round) {
      SCOPED_TRACE(testing::Message() << shape.physical << " slots, " << shape.ranks << " ranks, "
                                      << shape.nodes << " nodes, round " << round);
      const int experts = 256, rank_slots = shape.physical / shape.ranks;
      std::vector<float> load(experts);
      for (float& value : load) value = std::pow(static_cast<float>(random() % 1000), 2.0f);
      PlacementRequest request{.load = {load}, .host_of_rank = {}, .n_group = shape.groups};
      request.redundant_experts = shape.physical - experts;
      for (int r = 0; r < shape.ranks; ++r) {
        request.host_of_rank.push_back(r * shape.nodes / shape.ranks);
      }
      const auto placement = PlanPlacement(request);
      ASSERT_TRUE(placement.ok()) << placement.status();

      const std::vector<int> slots = *BalanceExperts(load, shape);
      std::vector<int> copies(experts);
      std::vector<std::set<int>> hosts(experts), published_hosts(experts);
      for (int s = 0; s < shape.physical; ++s) {
        ++copies[slots[s]];
        published_hosts[slots[s]].insert(request.host_of_rank[s / rank_slots]);
        const auto rank = slots.begin() + s / rank_slots * rank_slots;
        duplicates += static_cast<int>(std::count(rank, slots.begin() + s, slots[s]) > 0);
      }
      std::vector<double> on_rank(shape.ranks), published_on_rank(shape.ranks);
      for (int s = 0; s < shape.physical; ++s) {
        published_on_rank[s / rank_slots] += load[slots[s]] / copies[slots[s]];
      }
      // No rank is named twice: ExpertPlacement holds that.
      for (int e = 0; e < experts; ++e) {
        const auto holders = placement->Holders(0, ExpertId(e));
        EXPECT_EQ(static_cast<int>(holders.size()), copies[e]) << "expert " << e;
        for (const RankId rank : holders) {
          hosts[e].insert(request.host_of_rank[rank.value()]);
          on_rank[rank.value()] += load[e] / static_cast<float>(holders.size());
        }
        EXPECT_EQ(hosts[e], published_hosts[e]) << "expert " << e;
      }
      for (const std::set<int>& held : ByRank(*placement, 0)) EXPECT_EQ(held.size(), rank_slots);
      EXPECT_LE(MaxOverMean(on_rank), 1.01 * MaxOverMean(published_on_rank));
    }
    EXPECT_GT(duplicates, 0) << shape.physical << " slots";
  }
}

// An expert has more copies than there are ranks: some can be exchanged with none.
TEST(ExpertPlanner, SecondCopiesThatFitNowhereGoToOtherExperts) {
  const auto placement = PlanPlacement(
      {.load = {{1000, 1, 1, 1}}, .host_of_rank = {0, 0}, .holders = 1, .redundant_experts = 4});
  ASSERT_TRUE(placement.ok()) << placement.status();
  const std::vector<std::set<int>> all(2, {0, 1, 2, 3});
  EXPECT_EQ(ByRank(*placement, 0), all);
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
  EXPECT_TRUE(PlanPlacement({{load}, {0, 0, 1}, 2, 12}).ok());  // all are everywhere
  EXPECT_EQ(
      PlanPlacement({{load}, {0, 0, 1}, 2, 13}).status(),
      absl::InvalidArgumentError("layer 0: 12 experts, holders 2 and redundant_experts 13 want "
                                 "37 copies; one of each on 3 workers are 36"));
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
    request.redundant_experts =
        std::min(static_cast<int>(random() % 9), experts * (ranks - request.holders));
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
      EXPECT_EQ(copies, experts * request.holders + request.redundant_experts);
      EXPECT_LE(*std::max_element(held.begin(), held.end()), (copies + ranks - 1) / ranks + 1);
    }
  }
}

TEST(ExpertPlanner, GroupsStayOnAHostAndSecondHoldersGoToAnother) {
  const uint64_t seed = 21;
  SCOPED_TRACE(testing::Message() << "seed " << seed);
  std::mt19937_64 random(seed);
  for (int round = 0; round < 300; ++round) {
    PlacementRequest request;
    const int hosts = 2 + random() % 3, groups = hosts * (1 + random() % 2),
              ranks = hosts * (1 + random() % 4), experts = ranks * groups * (1 + random() % 3);
    std::vector<int>& host_of_rank = request.host_of_rank;
    for (int r = 0; r < ranks; ++r) host_of_rank.push_back(r % hosts);
    std::shuffle(host_of_rank.begin(), host_of_rank.end(), random);
    request.holders = 2;
    request.redundant_experts =
        random() % 2 == 0 ? 0 : std::min(static_cast<int>(random() % 40), experts * (ranks - 2));
    request.n_group = groups;
    std::vector<float> load(experts);
    for (float& value : load) value = std::pow(static_cast<float>(random() % 1000), 2.0f);
    request.load = {{}, load, std::vector<float>(experts, 1.0f)};
    SCOPED_TRACE(testing::Message()
                 << "round " << round << ": " << experts << " experts in " << groups << " groups, "
                 << request.redundant_experts << " redundant, " << ranks << " ranks on " << hosts);
    const auto placement = PlanPlacement(request);
    ASSERT_TRUE(placement.ok()) << placement.status();
    for (int layer = 1; layer < 3; ++layer) {
      std::vector<std::set<int>> hosts_of(experts);
      for (int e = 0; e < experts; ++e) {
        const auto holders = placement->Holders(layer, ExpertId(e));
        EXPECT_GE(holders.size(), 2);
        for (RankId rank : holders) hosts_of[e].insert(host_of_rank[rank.value()]);
        EXPECT_GE(hosts_of[e].size(), 2) << "expert " << e;
      }
      for (int group = 0; group < groups; ++group) {
        std::set<int> common = hosts_of[group * (experts / groups)];
        for (int i = 0; i < experts / groups; ++i) {
          std::erase_if(
              common, [&](int h) { return !hosts_of[group * (experts / groups) + i].contains(h); });
        }
        EXPECT_FALSE(common.empty()) << "group " << group << " of layer " << layer;
      }
      const int copies = 2 * experts + request.redundant_experts;
      for (const std::set<int>& held : ByRank(*placement, layer)) {
        EXPECT_GE(held.size(), copies / ranks - 1);
        EXPECT_LE(held.size(), (copies + ranks - 1) / ranks + 1);
      }
    }
  }
}

// Experts copied once more, and ranks that hold one more, change from layer to layer.
TEST(ExpertPlanner, EqualLoadsTakeTurns) {
  for (const int holders : {1, 2}) {
    // Six slots more than divide; four ranks with three experts more; and as published, four a
    // rank.
    for (const auto& [ranks, redundant] : {std::pair(10, 6), {20, 8}, {5, 4}, {4, 4}}) {
      SCOPED_TRACE(testing::Message() << holders << " holders, " << ranks << " ranks");
      const int layers = 40, experts = 16;
      PlacementRequest request;
      request.load.assign(layers, std::vector<float>(experts, 1.0f));
      for (int r = 0; r < ranks; ++r) request.host_of_rank.push_back(0);
      request.holders = holders;
      request.redundant_experts = redundant;
      const auto placement = PlanPlacement(request);
      ASSERT_TRUE(placement.ok()) << placement.status();
      std::vector<int> held(ranks), further(experts);
      for (int layer = 0; layer < layers; ++layer) {
        const std::vector<std::set<int>> by_rank = ByRank(*placement, layer);
        for (int r = 0; r < ranks; ++r) held[r] += static_cast<int>(by_rank[r].size());
        for (int e = 0; e < experts; ++e) {
          further[e] += static_cast<int>(placement->Holders(layer, ExpertId(e)).size()) - holders;
        }
      }
      const auto [least, most] = std::minmax_element(held.begin(), held.end());
      EXPECT_LE(*most - *least, layers / 10) << *least << " to " << *most << " in " << layers;
      const auto [rarest, commonest] = std::minmax_element(further.begin(), further.end());
      EXPECT_LE(*commonest - *rarest, layers / 10) << *rarest << " to " << *commonest;
    }
  }
}

TEST(ExpertPlanner, ALayerWithoutLoadIsSpreadAsWell) {
  const auto placement = PlanPlacement({.load = {std::vector<float>(8, 0.0f)},
                                        .host_of_rank = {0, 0, 0, 0},
                                        .holders = 2,
                                        .redundant_experts = 8});
  ASSERT_TRUE(placement.ok()) << placement.status();
  int further = 0;
  for (int e = 0; e < 8; ++e) further += placement->Holders(0, ExpertId(e)).size() > 2 ? 1 : 0;
  EXPECT_GE(further, 6);
}

}  // namespace
}  // namespace shoal
