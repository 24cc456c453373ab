// SPDX-License-Identifier: Apache-2.0
// Byte-pair merging: from the bytes of one pre-token to token ids, by the ranks of the trained
// merges.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"

namespace shoal {

class BytePairMerger {
 public:
  // The id of each single byte; -1 where the vocabulary has none (bytes that no UTF-8 text
  // contains).
  explicit BytePairMerger(const std::array<int32_t, 256>& byte_ids) : byte_ids_(byte_ids) {}

  // Declares that `left` and `right`, side by side, may become `merged`. Ranks follow the order of
  // the calls. The first declaration of a pair counts.
  void AddMerge(int32_t left, int32_t right, int32_t merged);

  // Appends the ids of `piece`: the adjacent pair of lowest rank is merged, leftmost first, until
  // none is left. n bytes take O(n log n). Bytes without an id are left out.
  void Append(absl::string_view piece, std::vector<int32_t>& ids) const;

 private:
  struct Merge {
    int32_t rank;
    int32_t merged;
  };
  const Merge* Find(int32_t left, int32_t right) const;
  void MergeShort(std::vector<int32_t>& symbols) const;
  void MergeLong(std::vector<int32_t>& symbols) const;

  std::array<int32_t, 256> byte_ids_;
  absl::flat_hash_map<uint64_t, Merge> merges_;  // keyed by left << 32 | right
  int32_t next_rank_ = 0;
};

}  // namespace shoal
