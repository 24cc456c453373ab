// SPDX-License-Identifier: Apache-2.0
#include "engine/text/bpe.h"

#include <cstddef>
#include <limits>
#include <queue>
#include <tuple>
#include <utility>

namespace shoal {

namespace {

// Up to this many symbols, looking at every pair again after each merge is faster than keeping a
// heap.
constexpr size_t kShort = 48;

constexpr uint64_t PairKey(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

}  // namespace

void BytePairMerger::AddMerge(int32_t left, int32_t right, int32_t merged) {
  merges_.try_emplace(PairKey(left, right), Merge{next_rank_++, merged});
}

const BytePairMerger::Merge* BytePairMerger::Find(int32_t left, int32_t right) const {
  const auto it = merges_.find(PairKey(left, right));
  return it == merges_.end() ? nullptr : &it->second;
}

void BytePairMerger::Append(absl::string_view piece, std::vector<int32_t>& ids) const {
  std::vector<int32_t> symbols;
  symbols.reserve(piece.size());
  for (const char c : piece) {
    const int32_t id = byte_ids_[static_cast<uint8_t>(c)];
    if (id >= 0) symbols.push_back(id);
  }
  if (symbols.size() <= kShort) {
    MergeShort(symbols);
  } else {
    MergeLong(symbols);
  }
  ids.insert(ids.end(), symbols.begin(), symbols.end());
}

void BytePairMerger::MergeShort(std::vector<int32_t>& symbols) const {
  constexpr Merge kNone{std::numeric_limits<int32_t>::max(), -1};
  const auto pair_at = [&](size_t i) {
    if (i + 1 >= symbols.size()) return kNone;
    const Merge* merge = Find(symbols[i], symbols[i + 1]);
    return merge == nullptr ? kNone : *merge;
  };
  std::array<Merge, kShort> pairs;  // pairs[i]: what symbols i and i+1 would become
  for (size_t i = 0; i < symbols.size(); ++i) pairs[i] = pair_at(i);
  while (symbols.size() > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < symbols.size(); ++i) {
      if (pairs[i].rank < pairs[best].rank) best = i;
    }
    if (pairs[best].merged < 0) return;
    symbols[best] = pairs[best].merged;
    for (size_t i = best + 1; i + 1 < symbols.size(); ++i) {
      symbols[i] = symbols[i + 1];
      pairs[i] = pairs[i + 1];
    }
    symbols.pop_back();
    pairs[best] = pair_at(best);
    if (best > 0) pairs[best - 1] = pair_at(best - 1);
  }
}

// A linked list of symbols and a heap of candidate pairs. A candidate is stale, and skipped, when
// its symbols have changed since it was pushed.
void BytePairMerger::MergeLong(std::vector<int32_t>& symbols) const {
  struct Candidate {
    int32_t rank;
    int32_t merged;
    size_t left;
    bool operator<(const Candidate& other)
        const {  // for a queue that yields the lowest rank, then the leftmost
      return std::tie(other.rank, other.left) < std::tie(rank, left);
    }
  };
  constexpr size_t kEnd = std::numeric_limits<size_t>::max();
  struct Link {
    size_t previous;
    size_t next;
  };
  std::vector<Link> links(symbols.size());
  std::vector<Candidate> heap_storage;
  heap_storage.reserve(symbols.size());
  std::priority_queue<Candidate> candidates({}, std::move(heap_storage));
  const auto push = [&](size_t left, size_t right) {
    if (left == kEnd || right == kEnd) return;
    if (const Merge* merge = Find(symbols[left], symbols[right])) {
      candidates.push({merge->rank, merge->merged, left});
    }
  };
  for (size_t i = 0; i < symbols.size(); ++i) {
    links[i] = {i == 0 ? kEnd : i - 1, i + 1 == symbols.size() ? kEnd : i + 1};
  }
  for (size_t i = 0; i + 1 < symbols.size(); ++i) push(i, i + 1);
  while (!candidates.empty()) {
    const Candidate top = candidates.top();
    candidates.pop();
    const size_t right = links[top.left].next;
    if (symbols[top.left] < 0 || right == kEnd) continue;
    const Merge* merge = Find(symbols[top.left], symbols[right]);
    if (merge == nullptr || merge->rank != top.rank) continue;
    symbols[top.left] = top.merged;
    symbols[right] = -1;  // taken in by its left neighbour
    links[top.left].next = links[right].next;
    if (links[right].next != kEnd) links[links[right].next].previous = top.left;
    push(links[top.left].previous, top.left);
    push(top.left, links[top.left].next);
  }
  std::erase(symbols, -1);
}

}  // namespace shoal
