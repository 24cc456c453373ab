// SPDX-License-Identifier: Apache-2.0
// What a token costs in the cache. A layer declares streams; nothing else in the house knows kinds
// of attention.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/config/model_config.h"

namespace shoal {

enum class Retention {
  kPaged,  // grows with the sequence, in blocks
  kState,  // fixed size per sequence
};

struct CacheStream {
  std::string name;        // "latent"
  int tokens_per_row = 1;  // context tokens that share one row
  int64_t elements_per_row = 0;
  int64_t bytes_per_row = 0;
  Retention retention = Retention::kPaged;

  bool operator==(const CacheStream&) const = default;
};

// Streams of every layer, in the order of the layers.
struct CacheLayout {
  std::vector<std::vector<CacheStream>> layers;

  // All paged streams of all layers.
  int64_t BytesPerToken() const;
  // One block holds block_tokens tokens of every paged stream; block_tokens is a multiple of every
  // tokens_per_row.
  int64_t BytesPerBlock(int block_tokens) const { return BytesPerToken() * block_tokens; }
};

// `element_bytes`: size of the backend's cache dtype.
CacheLayout MakeCacheLayout(const ModelConfig& config, int element_bytes);

}  // namespace shoal
