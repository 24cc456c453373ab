// SPDX-License-Identifier: Apache-2.0
#include "engine/config/tensor_manifest.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace shoal {
namespace {

// Names tensors until the visitor has seen enough. `experts` bounds those of a layer.
class Manifest {
 public:
  Manifest(const ModelConfig& config, int experts, absl::FunctionRef<bool(TensorSpec)> visit)
      : config_(config), experts_(experts), visit_(visit) {}

  void Model() {
    const int64_t hidden = config_.hidden_size;
    Add("model.embed_tokens", TensorRole::kEmbedding, config_.vocab_size, hidden);
    for (size_t i = 0; i < config_.layers.size() && wanted_; ++i) {
      AddLayer(static_cast<int>(i), config_.layers[i]);
    }
    Add("model.norm", TensorRole::kNorm, hidden);
    if (!config_.tie_word_embeddings) {
      Add("lm_head", TensorRole::kHead, config_.vocab_size, hidden);
    }
  }

  // DeepSeek-V3, arXiv:2412.19437 sec. 2.2: a layer like the last, with copies of embedding and
  // head.
  void Prediction() {
    const int64_t hidden = config_.hidden_size;
    const int layers = static_cast<int>(config_.layers.size());
    for (int i = layers; i < layers + config_.num_nextn_predict_layers; ++i) {
      const std::string prefix = absl::StrCat("model.layers.", i, ".");
      Add(prefix + "embed_tokens", TensorRole::kEmbedding, config_.vocab_size, hidden);
      Add(prefix + "enorm", TensorRole::kNorm, hidden);
      Add(prefix + "hnorm", TensorRole::kNorm, hidden);
      Add(prefix + "eh_proj", TensorRole::kHead, hidden, 2 * hidden);  // not quantised either
      AddLayer(i, config_.layers.back());
      Add(prefix + "shared_head.norm", TensorRole::kNorm, hidden);
      Add(prefix + "shared_head.head", TensorRole::kHead, config_.vocab_size, hidden);
    }
  }

 private:
  void Add(const std::string& name, TensorRole role, int64_t rows, int64_t cols = 0) {
    Visit({name + ".weight", role, rows, cols, layer_, expert_});
  }

  void Visit(TensorSpec spec) {
    if (wanted_) wanted_ = visit_(std::move(spec));
  }

  void AddLayer(int i, const LayerConfig& layer) {
    layer_ = i;
    const std::string prefix = absl::StrCat("model.layers.", i, ".");
    Add(prefix + "input_layernorm", TensorRole::kNorm, config_.hidden_size);
    std::visit([&](const auto& attention) { AddAttention(prefix + "self_attn.", attention); },
               layer.attention);
    Add(prefix + "post_attention_layernorm", TensorRole::kNorm, config_.hidden_size);
    std::visit([&](const auto& ffn) { AddFeedForward(prefix + "mlp.", ffn); }, layer.ffn);
    layer_ = -1;
  }

  void AddAttention(const std::string& prefix, const MlaConfig& mla) {
    const int64_t hidden = config_.hidden_size;
    const int64_t heads = mla.num_attention_heads;
    const int64_t query = heads * (mla.qk_nope_head_dim + mla.qk_rope_head_dim);
    if (mla.q_lora_rank == 0) {
      Add(prefix + "q_proj", TensorRole::kLinear, query, hidden);
    } else {
      Add(prefix + "q_a_proj", TensorRole::kLinear, mla.q_lora_rank, hidden);
      Add(prefix + "q_a_layernorm", TensorRole::kNorm, mla.q_lora_rank);
      Add(prefix + "q_b_proj", TensorRole::kLinear, query, mla.q_lora_rank);
    }
    Add(prefix + "kv_a_proj_with_mqa", TensorRole::kLinear, mla.kv_lora_rank + mla.qk_rope_head_dim,
        hidden);
    Add(prefix + "kv_a_layernorm", TensorRole::kNorm, mla.kv_lora_rank);
    Add(prefix + "kv_b_proj", TensorRole::kLinear, heads * (mla.qk_nope_head_dim + mla.v_head_dim),
        mla.kv_lora_rank);
    Add(prefix + "o_proj", TensorRole::kLinear, hidden, heads * mla.v_head_dim);
  }

  void AddMlp(const std::string& prefix, int64_t width) {
    Add(prefix + "gate_proj", TensorRole::kLinear, width, config_.hidden_size);
    Add(prefix + "up_proj", TensorRole::kLinear, width, config_.hidden_size);
    Add(prefix + "down_proj", TensorRole::kLinear, config_.hidden_size, width);
  }

  void AddFeedForward(const std::string& prefix, const DenseFfnConfig& dense) {
    AddMlp(prefix, dense.intermediate_size);
  }

  void AddFeedForward(const std::string& prefix, const MoeConfig& moe) {
    Add(prefix + "gate", TensorRole::kRouter, moe.router.n_routed_experts, config_.hidden_size);
    if (moe.router.topk_method == TopkMethod::kNoAuxTc) {
      Visit({prefix + "gate.e_score_correction_bias", TensorRole::kRouterBias,
             moe.router.n_routed_experts, 0, layer_, -1});
    }
    const int experts = std::min(moe.router.n_routed_experts, experts_);
    for (expert_ = 0; expert_ < experts && wanted_; ++expert_) {
      AddMlp(absl::StrCat(prefix, "experts.", expert_, "."), moe.moe_intermediate_size);
    }
    expert_ = -1;
    if (moe.n_shared_experts > 0) {
      AddMlp(prefix + "shared_experts.",
             static_cast<int64_t>(moe.n_shared_experts) * moe.moe_intermediate_size);
    }
  }

  const ModelConfig& config_;
  const int experts_;
  const absl::FunctionRef<bool(TensorSpec)> visit_;
  bool wanted_ = true;
  int layer_ = -1;
  int expert_ = -1;
};

}  // namespace

void VisitCheckpointTensors(const ModelConfig& config, absl::FunctionRef<bool(TensorSpec)> visit) {
  Manifest(config, config.MaxRoutedExperts(), visit).Model();
}

std::vector<TensorSpec> CheckpointTensors(const ModelConfig& config) {
  std::vector<TensorSpec> specs;
  VisitCheckpointTensors(config, [&](TensorSpec spec) {
    specs.push_back(std::move(spec));
    return true;
  });
  return specs;
}

std::vector<TensorSpec> TensorsOfOneExpert(const ModelConfig& config) {
  std::vector<TensorSpec> specs;
  Manifest(config, 1, [&](TensorSpec spec) {
    specs.push_back(std::move(spec));
    return true;
  }).Model();
  return specs;
}

std::vector<TensorSpec> PredictionTensorsOfOneExpert(const ModelConfig& config) {
  std::vector<TensorSpec> specs;
  Manifest(config, 1, [&](TensorSpec spec) {
    specs.push_back(std::move(spec));
    return true;
  }).Prediction();
  return specs;
}

}  // namespace shoal
