// SPDX-License-Identifier: Apache-2.0
// What a model costs, counted from its config alone: parameters, cache, FLOPs and bytes per token,
// memory per worker. The bounds that benchmarks are held against, and what `shoal inspect` prints.
#pragma once

#include <cstdint>

#include "engine/config/model_config.h"

namespace shoal {

struct ModelCost {
  // Parameters, those of multi-token prediction apart.
  int64_t total_parameters = 0;
  // Those that one token multiplies by: with the head, without the embedding's row.
  int64_t active_parameters = 0;
  int64_t embedding_parameters = 0;  // of the input embedding
  int64_t expert_parameters = 0;     // of one routed expert; 0 if there are none
  // Of the num_nextn_predict_layers, copies of embedding and head included: in the checkpoint, but
  // never loaded.
  int64_t prediction_parameters = 0;
  int64_t prediction_bytes = 0;

  // Weight bytes as stored: bf16, or FP8 with one f32 scale per block where the config says so.
  int64_t total_bytes = 0;
  // Read for every step whatever it routes: attention, dense and shared FFN, routers, head.
  int64_t fixed_bytes = 0;
  int64_t expert_bytes = 0;  // of one routed expert
  int64_t moe_layers = 0;
  int64_t n_routed_experts = 0;  // per MoE layer
  int64_t num_experts_per_tok = 0;

  // Cache, per token of context and whole model, 2 bytes an element.
  int64_t cache_bytes_per_token = 0;
  int64_t mha_bytes_per_token = 0;    // multi-head attention of the same shape
  int64_t gqa_8_bytes_per_token = 0;  // grouped-query attention with 8 heads of 128

  // Absorbed form: for one decoded token, per token of context.
  int64_t attention_flops_per_context_token = 0;

  // Weight bytes of a rank that holds so many experts, of all layers together.
  int64_t BytesWithExperts(int64_t experts) const {
    return total_bytes - (moe_layers * n_routed_experts - experts) * expert_bytes;
  }
  // FLOPs for one token decoded at `context` tokens; a multiply-add is 2.
  int64_t FlopsPerToken(int64_t context) const {
    return 2 * active_parameters + attention_flops_per_context_token * context;
  }
  // Bytes that one decode step of `batch` sequences reads: the experts that so many tokens hit
  // under uniform routing, E * (1 - (1 - K/E)^batch), everything fixed once, and each sequence's
  // cache.
  double BytesPerStep(int64_t batch, int64_t context) const;
};

ModelCost ComputeModelCost(const ModelConfig& config);

}  // namespace shoal
