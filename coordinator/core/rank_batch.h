// SPDX-License-Identifier: Apache-2.0
// What one rank has in its batch, as of the last plan: its blocks, its sequences, and what the next
// plan must tell it to forget.
#pragma once

#include <cstdint>
#include <vector>

#include "coordinator/core/block_manager.h"
#include "coordinator/core/events.h"
#include "coordinator/core/rate_meter.h"
#include "coordinator/core/sequence.h"

namespace shoal {

struct RankBatch {
  RankBatch(WorkerId worker_id, int64_t cache_blocks, int tokens_per_block)
      : worker(worker_id), block_tokens(tokens_per_block), blocks(cache_blocks, tokens_per_block) {}

  // False: nobody has this rank, and nothing runs here. The blocks say what the last worker had.
  bool present = true;
  WorkerId worker;  // whose cache it is: another worker has none of the contents
  int block_tokens;
  BlockManager blocks;
  std::vector<Sequence*> running;  // ascending Stay::id, which is the order they came in
  std::vector<SequenceId> forget;  // bounded: each was in `running` since the last plan
  int64_t prefill_rows = 0;        // rows of `running` that must be planned before they decode
  RateMeter committed_tokens;

  int64_t BlocksFor(int64_t rows) const { return (rows + block_tokens - 1) / block_tokens; }
};

// What the prefix cache of a rank has of a sequence.
struct PrefixMatch {
  int32_t blocks = 0;  // full blocks at the sequence's front
  int32_t idle = 0;    // of them, those that nobody refers to: available ones that would be taken
};

// Hashes the full blocks of known tokens that are not hashed yet.
void HashBlocks(Sequence& sequence, int block_tokens);

// Looks up a sequence that is not in a batch. At least one of its rows stays to be computed, and
// all rows whose prompt log-probabilities are still wanted. Requires HashBlocks.
PrefixMatch MatchPrefix(const RankBatch& rank, const Sequence& sequence);

// Begins a stay under `id`: takes what the prefix cache has (if `use_cache`) and allocates blocks
// for all other known rows. Requires that as many blocks are available.
void BeginStay(RankBatch& rank, RankId rank_id, SequenceId id, bool use_cache, Sequence& sequence);

// Tells the prefix cache of blocks that have become full of known tokens. `valid_after` is the last
// step planned.
void IndexBlocks(RankBatch& rank, StepId valid_after, Sequence& sequence);

// Ends the stay: references are dropped and the next plan tells the worker.
void EndStay(RankBatch& rank, Sequence& sequence);

// Takes the stay back to what committed steps made of it: as if later ones had never been planned. The
// caller drops their contents from the prefix cache. Requires that the step that brought it is
// committed.
void RewindStay(RankBatch& rank, StepId committed, Sequence& sequence);

}  // namespace shoal
