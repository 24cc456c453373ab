// SPDX-License-Identifier: Apache-2.0
#include "engine/config/cache_layout.h"

namespace shoal {
namespace {

// The normalised latent and the rotated shared key of one token: arXiv:2405.04434 sec. 2.1.2.
std::vector<CacheStream> Streams(const MlaConfig& mla, int element_bytes) {
  const int64_t elements = mla.kv_lora_rank + mla.qk_rope_head_dim;
  return {CacheStream{.name = "latent",
                      .tokens_per_row = 1,
                      .elements_per_row = elements,
                      .bytes_per_row = elements * element_bytes,
                      .retention = Retention::kPaged}};
}

}  // namespace

CacheLayout MakeCacheLayout(const ModelConfig& config, int element_bytes) {
  CacheLayout layout;
  layout.layers.reserve(config.layers.size());
  for (const LayerConfig& layer : config.layers) {
    layout.layers.push_back(std::visit(
        [&](const auto& attention) { return Streams(attention, element_bytes); }, layer.attention));
  }
  return layout;
}

int64_t CacheLayout::BytesPerToken() const {
  int64_t bytes = 0;
  for (const std::vector<CacheStream>& streams : layers) {
    for (const CacheStream& stream : streams) {
      if (stream.retention == Retention::kPaged)
        bytes += stream.bytes_per_row / stream.tokens_per_row;
    }
  }
  return bytes;
}

}  // namespace shoal
