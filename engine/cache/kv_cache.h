// SPDX-License-Identifier: Apache-2.0
// The paged pools of one rank: for each stream of each layer one array of rows, carved into blocks.
// One block id indexes every pool, so a sequence has one block table; who owns which block is
// decided elsewhere.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/base/ids.h"
#include "engine/config/cache_layout.h"
#include "engine/device/kernels.h"
#include "engine/tensor/tensor.h"

namespace shoal {

class KvCache {
 public:
  // Errors: InvalidArgument for sizes that overflow or a block that splits a row;
  // ResourceExhausted, with the bytes of the whole cache, when the device has too little memory.
  static absl::StatusOr<std::unique_ptr<KvCache>> Create(const CacheLayout& layout, int64_t blocks,
                                                         int block_tokens, Kernels& kernels);

  // [blocks * block_tokens / tokens_per_row, elements_per_row] cache_dtype.
  TensorView Pool(int layer, int stream = 0) const { return pools_[layer][stream].view; }

  int64_t blocks() const { return blocks_; }
  int block_tokens() const { return block_tokens_; }
  int64_t tokens() const { return blocks_ * block_tokens_; }
  int64_t bytes() const { return bytes_; }

 private:
  struct Stream {
    std::unique_ptr<DeviceBuffer> buffer;
    TensorView view;
  };

  std::vector<std::vector<Stream>> pools_;  // by layer and stream
  int64_t blocks_ = 0;
  int block_tokens_ = 0;
  int64_t bytes_ = 0;
};

// Blocks that hold `tokens` tokens.
inline int64_t BlocksForTokens(int64_t tokens, int block_tokens) {
  return (tokens + block_tokens - 1) / block_tokens;
}

// Row of a pool (tokens_per_row 1) where a sequence with this block table keeps `position`.
inline int64_t CacheSlot(absl::Span<const BlockId> block_table, int64_t position,
                         int block_tokens) {
  return static_cast<int64_t>(block_table[position / block_tokens].value()) * block_tokens +
         position % block_tokens;
}

}  // namespace shoal
