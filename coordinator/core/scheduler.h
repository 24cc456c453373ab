// SPDX-License-Identifier: Apache-2.0
// The scheduler's policies, each a small function of the state: where a sequence goes, who yields,
// how many rows a chunk gets. None of them changes anything. Whose turn it is: waiting_queue.h.
#pragma once

#include <cstdint>
#include <optional>

#include "absl/types/span.h"
#include "coordinator/core/serving_state.h"

namespace shoal {

// What is left of a rank's limits in the step being planned; nothing of an absent rank's.
struct RankRoom {
  int32_t rows = 0;    // of CoreConfig::max_batch_rows
  int32_t logits = 0;  // rows whose logits are wanted, of CoreConfig::max_running_sequences
};

// Rows that a sequence in prefill gets in this step; count 0: none.
struct Chunk {
  int32_t count = 0;
  bool sample = false;           // it reaches the last known token, and more are wanted
  bool prompt_logprobs = false;  // every row's logits are wanted
};
Chunk NextChunk(const Sequence& sequence, const RankRoom& room);

// Whether the sequence could ever run on a rank of so many blocks, alone if need be.
bool FitsAlone(const RankBatch& rank, const Sequence& sequence);

// Whether the rank has a place and blocks for all known tokens now. Beyond them one block per
// running sequence is left, so that a newcomer is not the reason for the next preemption.
bool HasRoom(const ServingState& state, const RankBatch& rank, const Sequence& sequence,
             const PrefixMatch& match);

// The rank, among those with rows left and room, on which the least work lies before this sequence's
// first token: rows of this step, prefill rows queued behind them, its own rows that the prefix cache
// does not have, and a block's worth of rows for each running sequence. Ties: most blocks available,
// lowest rank.
std::optional<RankId> ChooseRank(const ServingState& state, absl::Span<const RankRoom> room,
                                 const Sequence& sequence);

// The most junior running sequence: the one that yields. Null when none runs.
Sequence* ChooseVictim(const RankBatch& rank);

// For a waiting sequence that no rank has room for: the rank where sequences of lower priority
// could yield enough, and of these the one with the most junior victim. nullopt: there is none, it
// waits.
std::optional<RankId> ChooseRankToClear(const ServingState& state, const Sequence& sequence);

}  // namespace shoal
