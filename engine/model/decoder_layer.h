// SPDX-License-Identifier: Apache-2.0
// One layer of the decoder: attention and a feed-forward network, each normalised and added.
#pragma once

#include <memory>
#include <string>
#include <variant>

#include "absl/status/statusor.h"
#include "engine/model/attention.h"
#include "engine/model/feed_forward.h"
#include "engine/model/moe.h"
#include "engine/model/residual.h"
#include "engine/weights/loader.h"

namespace shoal {

// What layers need at load beside their own config.
struct LayerLoadContext {
  WeightLoader& loader;
  const ModelConfig& config;
  const ExpertPlacement& placement;
  RankId rank;
  RopeTable rope;  // outlives the layer
  LinearOptions linear;
  DType activation_dtype = DType::kF32;
  int64_t max_rows = 0;
};

class DecoderLayer {
 public:
  static absl::StatusOr<DecoderLayer> Load(const LayerLoadContext& context, int layer);

  void Forward(StepContext& step, ResidualState& x) const;

  // Takes from `arena` what Forward would for `rows` rows.
  void DeclareScratch(Arena& arena, int64_t rows) const;
  // The mixture of this layer; null for a dense one.
  const Moe* moe() const { return std::get_if<Moe>(&ffn_); }

 private:
  explicit DecoderLayer(const AddResidualConfig& residual)
      : attn_residual_(residual), ffn_residual_(residual) {}
  TensorView FeedForward(StepContext& step, TensorView h) const;

  int64_t hidden_size_ = 0;
  float eps_ = 0;
  AddResidual attn_residual_;
  AddResidual ffn_residual_;
  DeviceTensor attn_norm_;  // input_layernorm
  DeviceTensor ffn_norm_;   // post_attention_layernorm
  std::unique_ptr<Attention> attention_;
  std::variant<DenseFfn, Moe> ffn_;
};

}  // namespace shoal
