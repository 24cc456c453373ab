// SPDX-License-Identifier: Apache-2.0
#include "coordinator/core/block_manager.h"

#include <limits>

#include "engine/base/check.h"

namespace shoal {

BlockManager::BlockManager(int64_t total, int block_tokens) : total_(total), cache_(block_tokens) {
  SHOAL_CHECK(total >= 1 && total <= std::numeric_limits<int32_t>::max());
}

std::optional<BlockId> BlockManager::Allocate() {
  BlockId block;
  if (!free_.empty()) {
    block = free_.back();
    free_.pop_back();
  } else if (static_cast<int64_t>(slots_.size()) < total_) {
    block = BlockId(static_cast<int32_t>(slots_.size()));
    slots_.emplace_back();
  } else if (oldest_idle_ != kNil) {
    block = BlockId(oldest_idle_);
    RemoveIdle(oldest_idle_);
    cache_.Erase(block);
    EndLife(slots_[block.value()]);
  } else {
    return std::nullopt;
  }
  slots_[block.value()].references = 1;
  if (lifetimes_ != nullptr) slots_[block.value()].since = lifetimes_->now;
  ++used_;
  return block;
}

void BlockManager::AddReference(BlockId block) {
  Slot& slot = slots_[block.value()];
  SHOAL_CHECK(slot.references > 0 || slot.idle);
  if (slot.references++ > 0) return;
  RemoveIdle(block.value());
  ++used_;
}

void BlockManager::Release(BlockId block) {
  Slot& slot = slots_[block.value()];
  SHOAL_CHECK(slot.references > 0);
  if (--slot.references > 0) return;
  --used_;
  if (cache_.Holds(block)) {
    PushIdle(block.value());
  } else {
    EndLife(slot);
    free_.push_back(block);
  }
}

bool BlockManager::IsIdle(BlockId block) const { return slots_[block.value()].idle; }

void BlockManager::DropContentsAfter(StepId committed) {
  SHOAL_CHECK(used_ == 0);
  for (int32_t index = oldest_idle_; index != kNil;) {
    const int32_t newer = slots_[index].newer;
    const BlockId block(index);
    if (cache_.ValidAfter(block) > committed) {
      RemoveIdle(index);
      cache_.Erase(block);
      EndLife(slots_[index]);
      free_.push_back(block);
    }
    index = newer;
  }
}

void BlockManager::EndLife(const Slot& slot) {
  if (lifetimes_ != nullptr) lifetimes_->Add(lifetimes_->now - slot.since);
}

void BlockManager::PushIdle(int32_t index) {
  Slot& slot = slots_[index];
  slot.idle = true;
  slot.older = newest_idle_;
  slot.newer = kNil;
  (newest_idle_ == kNil ? oldest_idle_ : slots_[newest_idle_].newer) = index;
  newest_idle_ = index;
}

void BlockManager::RemoveIdle(int32_t index) {
  Slot& slot = slots_[index];
  SHOAL_CHECK(slot.idle);
  (slot.older == kNil ? oldest_idle_ : slots_[slot.older].newer) = slot.newer;
  (slot.newer == kNil ? newest_idle_ : slots_[slot.newer].older) = slot.older;
  slot.idle = false;
  slot.older = slot.newer = kNil;
}

}  // namespace shoal
