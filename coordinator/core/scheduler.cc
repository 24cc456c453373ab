// SPDX-License-Identifier: Apache-2.0
#include "coordinator/core/scheduler.h"

#include <algorithm>
#include <tuple>

namespace shoal {
namespace {

// Rows a sequence must hold to sample its next token.
int32_t KnownRows(const Sequence& sequence) {
  return std::min(sequence.known_tokens(), sequence.total_rows);
}

PrefixMatch Match(const ServingState& state, const RankBatch& rank, const Sequence& sequence) {
  return state.config.prefix_cache ? MatchPrefix(rank, sequence) : PrefixMatch{};
}

// Blocks that running sequences may each need soon.
int64_t Reserve(const RankBatch& rank) { return static_cast<int64_t>(rank.running.size()); }

}  // namespace

Chunk NextChunk(const Sequence& sequence, const RankRoom& room) {
  const int32_t start = sequence.stay.planned_rows;
  Chunk chunk;
  chunk.count = std::min(KnownRows(sequence) - start, room.rows);
  const auto gathered = static_cast<int32_t>(sequence.prompt_logprobs.size());
  if (sequence.wants_prompt_logprobs && start < sequence.prompt_tokens - 1) {
    if (start < gathered) {
      chunk.count = std::min(chunk.count, gathered - start);
    } else {
      chunk.prompt_logprobs = true;
      chunk.count = std::min(chunk.count, room.logits);
    }
  }
  const auto reaches_end = [&] { return start + chunk.count == sequence.known_tokens(); };
  if (reaches_end() && room.logits == 0) --chunk.count;  // its last row waits for the next step
  chunk.count = std::max(chunk.count, 0);
  chunk.sample = chunk.count > 0 && reaches_end();
  return chunk;
}

bool FitsAlone(const RankBatch& rank, const Sequence& sequence) {
  return rank.BlocksFor(sequence.total_rows) <= rank.blocks.total();
}

bool HasRoom(const ServingState& state, const RankBatch& rank, const Sequence& sequence,
             const PrefixMatch& match) {
  const auto running = static_cast<int32_t>(rank.running.size());
  if (running >= state.config.max_running_sequences || !FitsAlone(rank, sequence)) return false;
  const int64_t wanted = rank.BlocksFor(KnownRows(sequence)) - match.blocks;
  return wanted + Reserve(rank) <= rank.blocks.available() - match.idle;
}

std::optional<RankId> ChooseRank(const ServingState& state, absl::Span<const RankRoom> room,
                                 const Sequence& sequence) {
  std::optional<RankId> best;
  std::pair<int64_t, int64_t> best_cost;
  for (size_t r = 0; r < state.ranks.size(); ++r) {
    const RankBatch& rank = state.ranks[r];
    if (room[r].rows == 0 || room[r].logits == 0) continue;
    if (static_cast<int32_t>(rank.running.size()) >= state.config.max_running_sequences) continue;
    const PrefixMatch match = Match(state, rank, sequence);
    if (!HasRoom(state, rank, sequence, match)) continue;
    const int64_t own_rows = KnownRows(sequence) - int64_t{match.blocks} * rank.block_tokens;
    const int64_t rows = rank.prefill_rows + (state.config.max_batch_rows - room[r].rows) +
                         own_rows + static_cast<int64_t>(rank.running.size()) * rank.block_tokens;
    const std::pair<int64_t, int64_t> cost(rows, -rank.blocks.available());
    if (!best.has_value() || cost < best_cost) {
      best = RankId(static_cast<int32_t>(r));
      best_cost = cost;
    }
  }
  return best;
}

Sequence* ChooseVictim(const RankBatch& rank) {
  const auto junior = std::max_element(
      rank.running.begin(), rank.running.end(),
      [](const Sequence* a, const Sequence* b) { return a->seniority < b->seniority; });
  return junior == rank.running.end() ? nullptr : *junior;
}

std::optional<RankId> ChooseRankToClear(const ServingState& state, const Sequence& sequence) {
  const int32_t priority = sequence.seniority.priority;
  if (state.running_by_priority.empty() || state.running_by_priority.rbegin()->first <= priority) {
    return std::nullopt;
  }
  std::optional<RankId> best;
  const Sequence* best_victim = nullptr;
  for (size_t r = 0; r < state.ranks.size(); ++r) {
    const RankBatch& rank = state.ranks[r];
    if (!rank.present || !FitsAlone(rank, sequence)) continue;
    const PrefixMatch match = Match(state, rank, sequence);
    if (HasRoom(state, rank, sequence, match)) return std::nullopt;
    // Blocks that yielding sequences share are counted more than once: at worst they yield in vain
    // and come back when the waiting one has found another place.
    int64_t staying = 0;
    int64_t blocks = rank.blocks.available() - match.idle;
    for (const Sequence* running : rank.running) {
      if (running->seniority.priority > priority) {
        blocks += static_cast<int64_t>(running->stay.blocks.size());
      } else {
        ++staying;
      }
    }
    const int64_t wanted = rank.BlocksFor(KnownRows(sequence)) - match.blocks;
    if (staying >= state.config.max_running_sequences || wanted + staying > blocks) continue;
    const Sequence* victim = ChooseVictim(rank);
    if (victim == nullptr || victim->seniority.priority <= priority) continue;
    if (best_victim == nullptr || best_victim->seniority < victim->seniority) {
      best = RankId(static_cast<int32_t>(r));
      best_victim = victim;
    }
  }
  return best;
}

}  // namespace shoal
