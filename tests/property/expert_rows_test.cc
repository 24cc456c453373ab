// SPDX-License-Identifier: Apache-2.0
// Shows the bookkeeping of expert parallelism for random routings and placements: each row goes
// once to each rank that computes any of its experts, every (row, slot) is computed exactly once by
// a holder of its expert, and the runs of a receiver cover every pair it was sent, grouped by
// expert.
#include "engine/model/expert_rows.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include "gtest/gtest.h"

namespace shoal {
namespace {

TEST(ExpertRows, EveryChoiceIsComputedOnceByAHolder) {
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    const auto roll = [&](int low, int high) {
      return low + static_cast<int>(random() % (high - low + 1));
    };
    const int experts = roll(1, 20);
    const int ranks = roll(1, experts);
    const int slots = roll(1, std::min(experts, 6));
    const int max_rows = roll(1, 12);
    std::vector<std::vector<RankId>> holders(experts);
    for (auto& of_expert : holders) {
      for (int r = 0; r < ranks; ++r) {
        if (roll(0, ranks) == 0) of_expert.push_back(RankId(r));
      }
      if (of_expert.empty()) of_expert.push_back(RankId(roll(0, ranks - 1)));
    }
    const auto placement = ExpertPlacement::Create(ranks, {holders});
    ASSERT_TRUE(placement.ok());

    // Every rank routes its rows and addresses its messages.
    std::vector<ExpertRows> ledger;
    std::vector<std::vector<int32_t>> choices(ranks);
    for (int r = 0; r < ranks; ++r) {
      ledger.emplace_back(ranks, max_rows, experts, slots);
      const int rows = roll(0, max_rows);
      for (int row = 0; row < rows; ++row) {
        std::vector<int32_t> order(experts);
        std::iota(order.begin(), order.end(), 0);
        std::shuffle(order.begin(), order.end(), random);
        choices[r].insert(choices[r].end(), order.begin(), order.begin() + slots);
      }
      ledger[r].PlanDispatch(*placement, 0, RankId(r), choices[r], slots);
      std::set<std::pair<int32_t, int>> covered;  // (row, slot)
      for (int peer = 0; peer < ranks; ++peer) {
        const auto sent = ledger[r].RowsTo(RankId(peer));
        EXPECT_TRUE(std::is_sorted(sent.begin(), sent.end()));
        EXPECT_EQ(std::adjacent_find(sent.begin(), sent.end()), sent.end()) << "a row travels once";
        std::set<uint32_t> used;
        for (const ExpertPair& pair : ledger[r].PairsTo(RankId(peer))) {
          const int32_t row = sent[pair.row];
          used.insert(pair.row);
          EXPECT_EQ(choices[r][row * slots + pair.slot], pair.expert);
          EXPECT_TRUE(
              std::count(holders[pair.expert].begin(), holders[pair.expert].end(), RankId(peer)));
          EXPECT_TRUE(covered.emplace(row, pair.slot).second);
        }
        EXPECT_EQ(used.size(), sent.size()) << "no row travels for nothing";
      }
      EXPECT_EQ(covered.size(), choices[r].size());
    }

    // Every rank groups what it received.
    for (int r = 0; r < ranks; ++r) {
      std::vector<DispatchMessage> messages(ranks);
      size_t pairs = 0;
      for (int source = 0; source < ranks; ++source) {
        messages[source].pairs = ledger[source].PairsTo(RankId(r));
        messages[source].rows = static_cast<int64_t>(ledger[source].RowsTo(RankId(r)).size());
        pairs += messages[source].pairs.size();
      }
      ledger[r].PlanCompute(messages);
      std::map<int, int32_t> next_pair;
      int32_t last_expert = -1;
      size_t covered = 0;
      for (const ExpertRows::Run& run : ledger[r].Runs()) {
        EXPECT_GE(run.expert, last_expert);
        last_expert = run.expert;
        EXPECT_EQ(run.first_pair, next_pair[run.source])
            << "replies go out in the order of the pairs";
        for (int32_t i = 0; i < run.count; ++i) {
          const ExpertPair& pair = messages[run.source].pairs[run.first_pair + i];
          EXPECT_EQ(pair.expert, run.expert);
          EXPECT_EQ(ledger[r].Indices(run)[i], static_cast<int32_t>(pair.row));
        }
        next_pair[run.source] += run.count;
        covered += run.count;
      }
      EXPECT_EQ(covered, pairs);
    }
  }
  std::printf("seeds 1..300\n");
}

}  // namespace
}  // namespace shoal
