// SPDX-License-Identifier: Apache-2.0
// Shows that a plan computes every row of every prompt once and in order, within its budget, on
// ranks that make the same number of steps, in blocks no two prompts of a rank share.
#include "deploy/shoal/score_plan.h"

#include <random>
#include <set>
#include <vector>

#include "gtest/gtest.h"

namespace shoal {
namespace {

TEST(ScorePlan, WholePromptsTogetherInOneStep) {
  const ScorePlan plan = PlanScore({3, 1, 5}, {.workers = 1});
  ASSERT_EQ(plan.steps[0].size(), 1u);
  EXPECT_EQ(plan.steps[0][0], (std::vector<ScorePlan::Chunk>{{0, 0, 3}, {1, 0, 1}, {2, 0, 5}}));
  EXPECT_EQ(plan.max_rows, 9);
}

TEST(ScorePlan, OneOwnerForAll) {
  const ScorePlan plan = PlanScore({3, 4}, {.workers = 3, .first_rank_owns_all = true, .chunk = 2});
  EXPECT_EQ(plan.steps[0].size(), 2u);
  EXPECT_EQ(plan.steps[2], (std::vector<std::vector<ScorePlan::Chunk>>(2)));
}

TEST(ScorePlan, CoversEveryRowOnce) {
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    std::vector<int32_t> lengths(1 + random() % 9);
    for (int32_t& length : lengths) length = 1 + static_cast<int32_t>(random() % 40);
    const ScorePlanOptions options = {.workers = 1 + static_cast<int>(random() % 4),
                                      .chunk = static_cast<int32_t>(random() % 12),
                                      .row_budget = 1 + static_cast<int64_t>(random() % 60),
                                      .block_tokens = 1 + static_cast<int>(random() % 16)};
    const ScorePlan plan = PlanScore(lengths, options);
    std::vector<int32_t> done(lengths.size(), 0);
    ASSERT_EQ(plan.steps.size(), static_cast<size_t>(options.workers));
    for (int rank = 0; rank < options.workers; ++rank) {
      EXPECT_EQ(plan.steps[rank].size(), plan.steps[0].size());
      std::set<BlockId> blocks;
      for (const auto& step : plan.steps[rank]) {
        int64_t rows = 0;
        for (const ScorePlan::Chunk& chunk : step) {
          EXPECT_EQ(plan.owners[chunk.prompt], rank);
          EXPECT_EQ(chunk.start, done[chunk.prompt]);
          EXPECT_GT(chunk.count, 0);
          EXPECT_TRUE(options.chunk == 0 || chunk.count <= options.chunk);
          done[chunk.prompt] += chunk.count;
          rows += chunk.count;
        }
        EXPECT_LE(rows, options.row_budget);
        EXPECT_LE(rows, plan.max_rows);
      }
      for (size_t p = 0; p < lengths.size(); ++p) {
        if (plan.owners[p] != rank) continue;
        EXPECT_GE(static_cast<int>(plan.block_tables[p].size()) * options.block_tokens, lengths[p]);
        for (BlockId block : plan.block_tables[p]) {
          EXPECT_TRUE(blocks.insert(block).second);
          EXPECT_LT(block.value(), plan.max_blocks);
        }
      }
    }
    EXPECT_EQ(done, lengths);
  }
}

}  // namespace
}  // namespace shoal
