// SPDX-License-Identifier: Apache-2.0
#include "deploy/shoal/score_plan.h"

#include <algorithm>

namespace shoal {
namespace {

// Steps of one rank's prompts.
std::vector<std::vector<ScorePlan::Chunk>> PlanRank(const std::vector<int>& prompts,
                                                    const std::vector<int32_t>& lengths,
                                                    const ScorePlanOptions& options) {
  std::vector<std::vector<ScorePlan::Chunk>> steps;
  std::vector<int32_t> done(prompts.size(), 0);
  while (true) {
    std::vector<ScorePlan::Chunk> step;
    int64_t room = options.row_budget;
    for (size_t i = 0; i < prompts.size() && room > 0; ++i) {
      int64_t count = std::min<int64_t>(lengths[prompts[i]] - done[i], room);
      if (options.chunk > 0) count = std::min<int64_t>(count, options.chunk);
      if (count == 0) continue;
      step.push_back({prompts[i], done[i], static_cast<int32_t>(count)});
      done[i] += static_cast<int32_t>(count);
      room -= count;
    }
    if (step.empty()) return steps;
    steps.push_back(std::move(step));
  }
}

}  // namespace

ScorePlan PlanScore(const std::vector<int32_t>& prompt_lengths, const ScorePlanOptions& options) {
  ScorePlan plan;
  std::vector<std::vector<int>> owned(options.workers);
  std::vector<int64_t> blocks(options.workers, 0);
  for (size_t p = 0; p < prompt_lengths.size(); ++p) {
    const int owner = options.first_rank_owns_all ? 0 : static_cast<int>(p) % options.workers;
    plan.owners.push_back(owner);
    owned[owner].push_back(static_cast<int>(p));
    const int64_t needed =
        (int64_t{prompt_lengths[p]} + options.block_tokens - 1) / options.block_tokens;
    std::vector<BlockId>& table = plan.block_tables.emplace_back();
    for (int64_t b = 0; b < needed; ++b) {
      table.push_back(BlockId(static_cast<int32_t>(blocks[owner]++)));
    }
  }
  size_t most_steps = 0;
  for (const std::vector<int>& prompts : owned) {
    plan.steps.push_back(PlanRank(prompts, prompt_lengths, options));
    most_steps = std::max(most_steps, plan.steps.back().size());
  }
  for (auto& steps : plan.steps) {
    steps.resize(most_steps);
    for (const std::vector<ScorePlan::Chunk>& step : steps) {
      int64_t rows = 0;
      for (const ScorePlan::Chunk& chunk : step) rows += chunk.count;
      plan.max_rows = std::max(plan.max_rows, rows);
    }
  }
  plan.max_blocks = std::max<int64_t>(1, *std::max_element(blocks.begin(), blocks.end()));
  return plan;
}

}  // namespace shoal
