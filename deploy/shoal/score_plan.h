// SPDX-License-Identifier: Apache-2.0
// Which rows `shoal score` computes in which step on which rank. Pure arithmetic, the same on every
// process.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/base/ids.h"

namespace shoal {

struct ScorePlan {
  // Rows [start, start + count) of one prompt, in one step.
  struct Chunk {
    int prompt = 0;
    int32_t start = 0;
    int32_t count = 0;

    bool operator==(const Chunk&) const = default;
  };
  // steps[rank][step]: every rank has the same number of steps, some of them empty.
  std::vector<std::vector<std::vector<Chunk>>> steps;
  // Blocks of each prompt, within the pool of the rank that owns it.
  std::vector<std::vector<BlockId>> block_tables;
  std::vector<int> owners;  // rank of each prompt
  int64_t max_rows = 1;     // of one step on one rank
  int64_t max_blocks = 1;   // of one rank
};

struct ScorePlanOptions {
  int workers = 1;
  bool first_rank_owns_all = false;  // instead of prompts dealt out in turn
  int32_t chunk = 0;                 // rows of one prompt in one step at most; 0: all
  int64_t row_budget = 2048;         // rows of one step on one rank at most
  int block_tokens = 64;
};

// All prompts of a rank advance together, each by up to `chunk` rows a step, as the budget allows.
ScorePlan PlanScore(const std::vector<int32_t>& prompt_lengths, const ScorePlanOptions& options);

}  // namespace shoal
