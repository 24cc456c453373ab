// SPDX-License-Identifier: Apache-2.0
// Strong integer ids, so that a block cannot be passed for a rank. Ordered, hashable, printable; no arithmetic.
#pragma once

#include <compare>
#include <cstdint>
#include <ostream>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

namespace shoal {

template <typename Tag, typename Rep>
class StrongId {
 public:
  using RepType = Rep;
  constexpr StrongId() = default;
  constexpr explicit StrongId(Rep value) : value_(value) {}
  constexpr Rep value() const { return value_; }
  // The id that follows this one; for counters that hand out ids.
  constexpr StrongId Next() const { return StrongId(value_ + 1); }

  friend constexpr auto operator<=>(StrongId a, StrongId b) = default;
  template <typename H>
  friend H AbslHashValue(H h, StrongId id) {
    return H::combine(std::move(h), id.value_);
  }
  friend std::ostream& operator<<(std::ostream& os, StrongId id) { return os << +id.value_; }
  std::string ToString() const { return absl::StrCat(value_); }

 private:
  Rep value_ = 0;
};

using RequestId = StrongId<struct RequestTag, int64_t>;    // what a client asked; coordinator-wide
using SequenceId = StrongId<struct SequenceTag, int64_t>;  // one growing list of tokens
using BlockId = StrongId<struct BlockTag, int32_t>;        // a cache block within one rank's pools
using RankId = StrongId<struct RankTag, int32_t>;          // a worker's place in the expert-parallel unit
using ExpertId = StrongId<struct ExpertTag, int32_t>;      // a logical expert within a layer
using Epoch = StrongId<struct EpochTag, int64_t>;          // a membership and placement; 0 means none yet
using StepId = StrongId<struct StepTag, int64_t>;          // one forward pass of the whole unit

}  // namespace shoal
