// SPDX-License-Identifier: Apache-2.0
// Which tensors a checkpoint of a given config holds: names as Hugging Face spells them, shapes,
// and whose they are. The loader checks checkpoints against it; `shoal inspect` counts with it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "engine/config/expert_placement.h"
#include "engine/config/model_config.h"

namespace shoal {

enum class TensorRole {
  kEmbedding,   // [V, D]
  kHead,        // [V, D]; absent when tied to the embedding
  kNorm,        // [n]
  kLinear,      // [N, K], quantised if the config says so
  kRouter,      // [E, D]
  kRouterBias,  // [E], kept in f32
};

struct TensorSpec {
  std::string name;  // with ".weight"
  TensorRole role = TensorRole::kLinear;
  int64_t rows = 0;
  int64_t cols = 0;  // 0: a vector
  int layer = -1;    // -1: outside the layers
  int expert = -1;   // -1: every rank holds it

  int64_t elements() const { return cols == 0 ? rows : rows * cols; }
};

// Calls `visit` for one tensor after the other until it returns false. A config in range may
// promise millions that its checkpoint does not hold. Layers from num_hidden_layers on (multi-token
// prediction) are not listed.
void VisitCheckpointTensors(const ModelConfig& config, absl::FunctionRef<bool(TensorSpec)> visit);
std::vector<TensorSpec> CheckpointTensors(const ModelConfig& config);

// Of each mixture layer's experts, which are all alike, the first alone: what counting needs.
std::vector<TensorSpec> TensorsOfOneExpert(const ModelConfig& config);
// The same for the num_nextn_predict_layers that follow, which no forward pass of ours reads.
std::vector<TensorSpec> PredictionTensorsOfOneExpert(const ModelConfig& config);

// Attention and shared parts belong to every rank, an expert to its holders.
inline bool IsOwned(const TensorSpec& spec, const ExpertPlacement& placement, RankId rank) {
  if (spec.expert < 0) return true;
  for (RankId holder : placement.Holders(spec.layer, ExpertId(spec.expert))) {
    if (holder == rank) return true;
  }
  return false;
}

}  // namespace shoal
