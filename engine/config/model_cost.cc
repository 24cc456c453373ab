// SPDX-License-Identifier: Apache-2.0
#include "engine/config/model_cost.h"

#include <cmath>
#include <variant>

#include "engine/config/cache_layout.h"
#include "engine/config/tensor_manifest.h"

namespace shoal {
namespace {

constexpr int kCacheElementBytes = 2;

int64_t StoredBytes(const ModelConfig& config, const TensorSpec& spec) {
  if (spec.role == TensorRole::kRouterBias) return spec.elements() * 4;
  if (spec.role != TensorRole::kLinear || !config.quant.has_value()) return spec.elements() * 2;
  const int64_t row_blocks = (spec.rows + config.quant->block_rows - 1) / config.quant->block_rows;
  const int64_t col_blocks = (spec.cols + config.quant->block_cols - 1) / config.quant->block_cols;
  return spec.elements() + row_blocks * col_blocks * 4;
}

}  // namespace

double ModelCost::BytesPerStep(int64_t batch, int64_t context) const {
  double hit = 0;
  if (n_routed_experts > 0) {
    const double missed = 1.0 - static_cast<double>(num_experts_per_tok) / n_routed_experts;
    hit = n_routed_experts * (1.0 - std::pow(missed, batch));
  }
  return fixed_bytes + moe_layers * hit * expert_bytes +
         static_cast<double>(batch) * context * cache_bytes_per_token;
}

ModelCost ComputeModelCost(const ModelConfig& config) {
  ModelCost cost;
  for (const LayerConfig& layer : config.layers) {
    const MoeConfig* moe = std::get_if<MoeConfig>(&layer.ffn);
    if (moe == nullptr) continue;
    // The same in every mixture layer of a model.
    ++cost.moe_layers;
    cost.n_routed_experts = moe->router.n_routed_experts;
    cost.num_experts_per_tok = moe->router.num_experts_per_tok;
  }
  int counted = -1;  // the layer whose expert was counted
  for (const TensorSpec& spec : TensorsOfOneExpert(config)) {
    const int64_t bytes = StoredBytes(config, spec);
    if (spec.expert >= 0) {
      if (counted < 0) counted = spec.layer;
      if (spec.layer == counted) {
        cost.expert_parameters += spec.elements();
        cost.expert_bytes += bytes;
      }
      continue;
    }
    cost.total_parameters += spec.elements();
    cost.total_bytes += bytes;
    if (spec.role == TensorRole::kEmbedding) {
      cost.embedding_parameters += spec.elements();
      if (!config.tie_word_embeddings) continue;  // a tied head is multiplied by
    }
    cost.active_parameters += spec.elements();
    cost.fixed_bytes += bytes;
  }
  const int64_t experts = cost.moe_layers * cost.n_routed_experts;
  cost.total_parameters += experts * cost.expert_parameters;
  cost.total_bytes += experts * cost.expert_bytes;
  cost.active_parameters += cost.moe_layers * cost.num_experts_per_tok * cost.expert_parameters;
  for (const TensorSpec& spec : PredictionTensorsOfOneExpert(config)) {
    const int64_t alike = spec.expert < 0 ? 1 : cost.n_routed_experts;
    cost.prediction_parameters += alike * spec.elements();
    cost.prediction_bytes += alike * StoredBytes(config, spec);
  }
  cost.cache_bytes_per_token = MakeCacheLayout(config, kCacheElementBytes).BytesPerToken();
  for (const LayerConfig& layer : config.layers) {
    const MlaConfig& mla = std::get<MlaConfig>(layer.attention);
    const int64_t heads = mla.num_attention_heads;
    cost.mha_bytes_per_token +=
        kCacheElementBytes * heads * (mla.qk_nope_head_dim + mla.qk_rope_head_dim + mla.v_head_dim);
    cost.gqa_8_bytes_per_token += int64_t{kCacheElementBytes} * 2 * 8 * 128;
    cost.attention_flops_per_context_token +=
        2 * heads * (2 * mla.kv_lora_rank + mla.qk_rope_head_dim);
  }
  return cost;
}

}  // namespace shoal
