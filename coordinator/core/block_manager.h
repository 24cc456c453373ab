// SPDX-License-Identifier: Apache-2.0
// The cache blocks of one rank: who refers to each, which are free, and which are kept for what
// they hold although nobody refers to them (idle). Idle blocks are given away least recently used
// first.
//
// A block may be handed out again at once after its last reference is gone, although steps that
// read or write it are still in flight: a rank executes its plans in order, one step after the
// other, and only a later plan can name the block's next owner.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/time/time.h"
#include "coordinator/core/block_lifetimes.h"
#include "coordinator/core/prefix_cache.h"
#include "engine/base/ids.h"

namespace shoal {

class BlockManager {
 public:
  // `total` blocks with ids [0, total), 1 <= total < 2^31.
  BlockManager(int64_t total, int block_tokens);

  // Where lives of blocks are counted from now on; outlives the manager.
  void CountLifetimes(BlockLifetimes* lifetimes) { lifetimes_ = lifetimes; }

  // A block with one reference. If only idle ones are left, the least recently used of them is
  // dropped from the cache. nullopt when every block is referred to.
  std::optional<BlockId> Allocate();
  // One more reference, also to an idle block.
  void AddReference(BlockId block);
  // One reference fewer. After the last one an indexed block becomes idle, any other free. Release
  // a table from its end to its front, so that a prefix outlives what continues it.
  void Release(BlockId block);
  bool IsIdle(BlockId block) const;

  // Forgets the contents that steps after `committed` were to write. Requires that no block is
  // referred to.
  void DropContentsAfter(StepId committed);

  PrefixCache& cache() { return cache_; }
  const PrefixCache& cache() const { return cache_; }
  int64_t total() const { return total_; }
  // Blocks that Allocate can still give, idle ones included.
  int64_t available() const { return total_ - used_; }
  // Blocks that somebody refers to.
  int64_t used() const { return used_; }

 private:
  static constexpr int32_t kNil = -1;
  struct Slot {
    int32_t references = 0;
    bool idle = false;
    int32_t older = kNil;  // neighbours in the list of idle blocks
    int32_t newer = kNil;
    absl::Time since;  // handed out
  };
  void EndLife(const Slot& slot);
  void PushIdle(int32_t index);
  void RemoveIdle(int32_t index);

  int64_t total_;
  int64_t used_ = 0;
  std::vector<Slot> slots_;  // of the blocks ever handed out; grows up to total_
  std::vector<BlockId> free_;
  int32_t oldest_idle_ = kNil;
  int32_t newest_idle_ = kNil;
  PrefixCache cache_;
  BlockLifetimes* lifetimes_ = nullptr;
};

}  // namespace shoal
