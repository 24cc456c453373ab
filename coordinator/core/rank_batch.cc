// SPDX-License-Identifier: Apache-2.0
#include "coordinator/core/rank_batch.h"

#include <algorithm>

#include "engine/base/check.h"

namespace shoal {
namespace {

// Tokens of block `index` of the sequence, in place where they lie together, else through
// `scratch`.
absl::Span<const int32_t> BlockTokens(const Sequence& sequence, int32_t index, int block_tokens,
                                      std::vector<int32_t>& scratch) {
  const int32_t begin = index * block_tokens;
  const int32_t prompt = sequence.prompt_tokens;
  if (begin + block_tokens <= prompt) {
    return absl::MakeConstSpan(sequence.request->request.prompt).subspan(begin, block_tokens);
  }
  if (begin >= prompt) {
    return absl::MakeConstSpan(sequence.generated).subspan(begin - prompt, block_tokens);
  }
  sequence.CopyTokens(begin, begin + block_tokens, scratch);
  return scratch;
}

// Rows that may come from the cache: not the last known one, whose logits are wanted, nor those
// whose prompt log-probabilities are.
int32_t CacheableRows(const Sequence& sequence) {
  const int32_t rows = std::min(sequence.known_tokens() - 1, sequence.total_rows);
  const auto gathered = static_cast<int32_t>(sequence.prompt_logprobs.size());
  if (sequence.wants_prompt_logprobs && gathered < sequence.prompt_tokens - 1) {
    return std::min(rows, gathered);
  }
  return rows;
}

// Walks the chain of nodes that the cache has of the sequence, calling visit(node) on each.
template <typename Visit>
void WalkPrefix(const RankBatch& rank, const Sequence& sequence, Visit visit) {
  const int32_t limit = CacheableRows(sequence) / rank.block_tokens;
  std::vector<int32_t> scratch;
  PrefixCache::Serial parent = PrefixCache::kRoot;
  for (int32_t index = 0; index < limit; ++index) {
    const auto node =
        rank.blocks.cache().Find(parent, sequence.block_hashes[index],
                                 BlockTokens(sequence, index, rank.block_tokens, scratch));
    if (!node.has_value()) return;
    visit(*node);
    parent = node->serial;
  }
}

}  // namespace

void HashBlocks(Sequence& sequence, int block_tokens) {
  std::vector<int32_t> scratch;
  const int32_t full = sequence.known_tokens() / block_tokens;
  for (auto index = static_cast<int32_t>(sequence.block_hashes.size()); index < full; ++index) {
    sequence.block_hashes.push_back(
        HashTokens(BlockTokens(sequence, index, block_tokens, scratch)));
  }
}

PrefixMatch MatchPrefix(const RankBatch& rank, const Sequence& sequence) {
  PrefixMatch match;
  if (rank.blocks.cache().size() == 0) return match;
  WalkPrefix(rank, sequence, [&](const PrefixCache::Node& node) {
    ++match.blocks;
    if (rank.blocks.IsIdle(node.block)) ++match.idle;
  });
  return match;
}

void BeginStay(RankBatch& rank, RankId rank_id, SequenceId id, bool use_cache, Sequence& sequence) {
  Stay& stay = sequence.stay;
  stay = Stay{};
  stay.id = id;
  stay.rank = rank_id;
  sequence.last_rank = rank_id;
  if (use_cache) {
    WalkPrefix(rank, sequence, [&](const PrefixCache::Node& node) {
      rank.blocks.AddReference(node.block);
      stay.blocks.push_back(node.block);
      stay.parent = node.serial;
    });
  }
  stay.indexed_blocks = static_cast<int32_t>(stay.blocks.size());
  stay.planned_rows = stay.indexed_blocks * rank.block_tokens;
  const int32_t rows = std::min(sequence.known_tokens(), sequence.total_rows);
  while (static_cast<int64_t>(stay.blocks.size()) < rank.BlocksFor(rows)) {
    const std::optional<BlockId> block = rank.blocks.Allocate();
    SHOAL_CHECK(block.has_value());
    stay.blocks.push_back(*block);
  }
  rank.prefill_rows += rows - stay.planned_rows;
  SHOAL_CHECK(rank.running.empty() || rank.running.back()->stay.id < id);
  rank.running.push_back(&sequence);
}

void IndexBlocks(RankBatch& rank, StepId valid_after, Sequence& sequence) {
  Stay& stay = sequence.stay;
  const int32_t rows = std::min(stay.planned_rows, sequence.known_tokens());
  if (rows / rank.block_tokens <= stay.indexed_blocks || stay.parent == PrefixCache::kNone) return;
  stay.MarkBefore(valid_after);
  HashBlocks(sequence, rank.block_tokens);
  std::vector<int32_t> scratch;
  for (; (stay.indexed_blocks + 1) * rank.block_tokens <= rows; ++stay.indexed_blocks) {
    const int32_t index = stay.indexed_blocks;
    stay.parent = rank.blocks.cache().Insert(
        stay.parent, sequence.block_hashes[index],
        BlockTokens(sequence, index, rank.block_tokens, scratch), stay.blocks[index], valid_after);
    if (stay.parent == PrefixCache::kNone) return;
  }
}

void EndStay(RankBatch& rank, Sequence& sequence) {
  Stay& stay = sequence.stay;
  if (!stay.decoding) {
    rank.prefill_rows -=
        std::min(sequence.known_tokens(), sequence.total_rows) - stay.planned_rows;
  }
  for (auto block = stay.blocks.rbegin(); block != stay.blocks.rend(); ++block) {
    rank.blocks.Release(*block);
  }
  rank.forget.push_back(stay.id);
  rank.running.erase(std::find(rank.running.begin(), rank.running.end(), &sequence));
  stay = Stay{};
}

void RewindStay(RankBatch& rank, StepId committed, Sequence& sequence) {
  Stay& stay = sequence.stay;
  SHOAL_CHECK(stay.entered <= committed);
  const int32_t wanted = std::min(sequence.known_tokens(), sequence.total_rows);
  if (!stay.decoding) rank.prefill_rows -= wanted - stay.planned_rows;
  std::sort(stay.marks.begin(), stay.marks.end(),
            [](const Stay::Mark& a, const Stay::Mark& b) { return a.step > b.step; });
  for (Stay::Mark& mark : stay.marks) {  // the latest first
    if (mark.step > committed) {
      stay.planned_rows = std::min(stay.planned_rows, mark.planned_rows);
      stay.indexed_blocks = mark.indexed_blocks;
      stay.parent = mark.parent;
    }
    mark = Stay::Mark{};
  }
  // Of a sequence that decodes all rows are computed but that of the token sampled last.
  stay.planned_rows = std::min(stay.planned_rows, sequence.known_tokens() - 1);
  stay.decoding = false;
  stay.told_blocks = static_cast<int32_t>(rank.BlocksFor(stay.planned_rows));
  rank.prefill_rows += wanted - stay.planned_rows;
}

}  // namespace shoal
