// SPDX-License-Identifier: Apache-2.0
#include "coordinator/core/prefix_cache.h"

#include <algorithm>
#include <utility>

#include "engine/base/check.h"

namespace shoal {
namespace {

// The finaliser of SplitMix64 (Steele, Lea, Flood 2014): every input bit reaches every output bit.
uint64_t Mix(uint64_t x) {
  x ^= x >> 30;
  x *= 0xbf58476d1ce4e5b9u;
  x ^= x >> 27;
  x *= 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

uint64_t KeyOf(PrefixCache::Serial parent, uint64_t hash) {
  return Mix(hash + 0x9e3779b97f4a7c15u * static_cast<uint64_t>(parent));
}

}  // namespace

uint64_t HashTokens(absl::Span<const int32_t> tokens) {
  uint64_t hash = tokens.size();
  for (int32_t token : tokens) hash = Mix(hash ^ static_cast<uint32_t>(token)) + 0x9e3779b9u;
  return hash;
}

absl::Span<const int32_t> PrefixCache::TokensOf(BlockId block) const {
  return absl::MakeConstSpan(tokens_).subspan(
      static_cast<size_t>(block.value()) * static_cast<size_t>(block_tokens_), block_tokens_);
}

std::optional<PrefixCache::Node> PrefixCache::Find(Serial parent, uint64_t hash,
                                                   absl::Span<const int32_t> tokens) const {
  auto it = by_key_.find(KeyOf(parent, hash));
  if (it == by_key_.end()) return std::nullopt;
  const Entry& entry = entries_[it->second.value()];
  if (entry.parent != parent || TokensOf(it->second) != tokens) return std::nullopt;
  return Node{entry.serial, it->second};
}

PrefixCache::Serial PrefixCache::Insert(Serial parent, uint64_t hash,
                                        absl::Span<const int32_t> tokens, BlockId block,
                                        StepId valid_after) {
  SHOAL_CHECK(static_cast<int>(tokens.size()) == block_tokens_ && !Holds(block));
  const uint64_t key = KeyOf(parent, hash);
  auto [it, inserted] = by_key_.try_emplace(key, block);
  if (!inserted) {
    const Entry& entry = entries_[it->second.value()];
    const bool same = entry.parent == parent && TokensOf(it->second) == tokens;
    return same ? entry.serial : kNone;
  }
  const size_t index = static_cast<size_t>(block.value());
  if (index >= entries_.size()) {
    const size_t size = std::max<size_t>(index + 1, entries_.size() + entries_.size() / 2);
    entries_.resize(size);
    tokens_.resize(size * static_cast<size_t>(block_tokens_));
  }
  entries_[index] = Entry{++last_serial_, parent, key, valid_after};
  std::copy(tokens.begin(), tokens.end(),
            tokens_.begin() + static_cast<int64_t>(index) * block_tokens_);
  unsettled_.push_back(block);
  return last_serial_;
}

bool PrefixCache::Holds(BlockId block) const {
  const size_t index = static_cast<size_t>(block.value());
  return index < entries_.size() && entries_[index].serial != kNone;
}

void PrefixCache::Erase(BlockId block) {
  SHOAL_CHECK(Holds(block));
  by_key_.erase(entries_[block.value()].key);
  entries_[block.value()] = Entry{};
}

void PrefixCache::Settle(StepId committed) {
  std::erase_if(unsettled_, [&](BlockId block) {
    return !Holds(block) || entries_[block.value()].valid_after <= committed;
  });
}

std::vector<BlockId> PrefixCache::EraseAfter(StepId committed) {
  Settle(committed);
  std::vector<BlockId> erased;
  for (const BlockId block : std::exchange(unsettled_, {})) {
    if (!Holds(block)) continue;  // named twice
    Erase(block);
    erased.push_back(block);
  }
  return erased;
}

}  // namespace shoal
