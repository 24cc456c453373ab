// SPDX-License-Identifier: Apache-2.0
#include "engine/cache/kv_cache.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"

namespace shoal {

absl::StatusOr<std::unique_ptr<KvCache>> KvCache::Create(const CacheLayout& layout, int64_t blocks,
                                                         int block_tokens, Kernels& kernels) {
  int64_t tokens = 0;
  int64_t bytes = 0;
  if (blocks < 1 || block_tokens < 1 || blocks > INT32_MAX ||
      __builtin_mul_overflow(layout.BytesPerBlock(block_tokens), blocks, &bytes) ||
      __builtin_mul_overflow(blocks, static_cast<int64_t>(block_tokens), &tokens)) {
    return absl::InvalidArgumentError(
        absl::StrCat("cache: want at least one block of one token, found ", blocks, " blocks of ",
                     block_tokens, " tokens"));
  }
  auto cache = std::make_unique<KvCache>();
  cache->blocks_ = blocks;
  cache->block_tokens_ = block_tokens;
  cache->bytes_ = bytes;
  for (const std::vector<CacheStream>& streams : layout.layers) {
    std::vector<Stream>& pools = cache->pools_.emplace_back();
    for (const CacheStream& stream : streams) {
      if (block_tokens % stream.tokens_per_row != 0) {
        return absl::InvalidArgumentError(absl::StrCat("cache: want block_tokens a multiple of ",
                                                       stream.tokens_per_row, " (", stream.name,
                                                       "), found ", block_tokens));
      }
      const int64_t rows = tokens / stream.tokens_per_row;
      auto buffer = kernels.Allocate(static_cast<size_t>(rows * stream.bytes_per_row));
      if (!buffer.ok()) {
        return absl::ResourceExhaustedError(absl::StrCat(
            "cache of ", blocks, " blocks: want ", bytes, " bytes: ", buffer.status().message()));
      }
      Stream pool;
      pool.buffer = *std::move(buffer);
      pool.view =
          TensorView(pool.buffer->data(), kernels.cache_dtype(), {rows, stream.elements_per_row});
      pools.push_back(std::move(pool));
    }
  }
  return cache;
}

}  // namespace shoal
