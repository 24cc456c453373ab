// SPDX-License-Identifier: Apache-2.0
// Which full blocks of one rank hold the cache rows of which tokens: an index over block contents.
// A node is one full block of tokens behind a parent node, so a chain of nodes from the root spells
// a prefix of tokens. Hashes only find candidates; tokens and parent are compared exactly, so that
// a collision costs a miss and never a wrong row.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"
#include "engine/base/ids.h"

namespace shoal {

// Of a block's tokens; the same on every rank, so a sequence computes it once.
uint64_t HashTokens(absl::Span<const int32_t> tokens);

class PrefixCache {
 public:
  // Names a node for as long as it exists; never reused. A node whose parent was dropped can no
  // longer be found: the parent's successor, even with the same tokens, has another serial.
  using Serial = int64_t;
  static constexpr Serial kRoot = 0;
  static constexpr Serial kNone = -1;

  struct Node {
    Serial serial = kNone;
    BlockId block;
  };

  explicit PrefixCache(int block_tokens) : block_tokens_(block_tokens) {}

  // The node that follows `parent` with exactly these tokens. `hash` is HashTokens(tokens).
  std::optional<Node> Find(Serial parent, uint64_t hash, absl::Span<const int32_t> tokens) const;

  // Adds `block` as the node of these tokens and returns its serial; if there is one with the same
  // content already, returns that one's and leaves `block` out. kNone: another content has the
  // place (a collision), so this content and what follows it cannot be indexed. `valid_after` is
  // the step that writes the block's last row. Requires that `block` is not indexed.
  Serial Insert(Serial parent, uint64_t hash, absl::Span<const int32_t> tokens, BlockId block,
                StepId valid_after);

  bool Holds(BlockId block) const;
  void Erase(BlockId block);

  // Steps up to this one are committed: contents valid after them will not be dropped any more.
  void Settle(StepId committed);
  // Erases what is valid only after a later step than this one. Returns its blocks, each once.
  std::vector<BlockId> EraseAfter(StepId committed);
  int64_t size() const { return static_cast<int64_t>(by_key_.size()); }

 private:
  struct Entry {
    Serial serial = kNone;  // kNone: not indexed
    Serial parent = kNone;
    uint64_t key = 0;
    StepId valid_after;
  };
  absl::Span<const int32_t> TokensOf(BlockId block) const;

  int block_tokens_;
  Serial last_serial_ = kRoot;
  std::vector<Entry> entries_;                     // by block
  std::vector<int32_t> tokens_;                    // by block, block_tokens_ each
  absl::flat_hash_map<uint64_t, BlockId> by_key_;  // looked up, never iterated
  std::vector<BlockId> unsettled_;  // indexed since the step settled last; some are erased again
};

}  // namespace shoal
