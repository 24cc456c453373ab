// SPDX-License-Identifier: Apache-2.0
#include "engine/config/tensor_manifest.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace shoal {
namespace {

class ManifestBuilder {
 public:
  explicit ManifestBuilder(const ModelConfig& config) : config_(config) {}

  std::vector<TensorSpec> Build() {
    const int64_t hidden = config_.hidden_size;
    Add("model.embed_tokens", TensorRole::kEmbedding, config_.vocab_size, hidden);
    for (size_t i = 0; i < config_.layers.size(); ++i) {
      layer_ = static_cast<int>(i);
      const std::string prefix = absl::StrCat("model.layers.", i, ".");
      Add(prefix + "input_layernorm", TensorRole::kNorm, hidden);
      std::visit([&](const auto& attention) { AddAttention(prefix + "self_attn.", attention); },
                 config_.layers[i].attention);
      Add(prefix + "post_attention_layernorm", TensorRole::kNorm, hidden);
      std::visit([&](const auto& ffn) { AddFeedForward(prefix + "mlp.", ffn); },
                 config_.layers[i].ffn);
    }
    layer_ = -1;
    Add("model.norm", TensorRole::kNorm, hidden);
    if (!config_.tie_word_embeddings) {
      Add("lm_head", TensorRole::kHead, config_.vocab_size, hidden);
    }
    return std::move(specs_);
  }

 private:
  void Add(const std::string& name, TensorRole role, int64_t rows, int64_t cols = 0) {
    specs_.push_back({name + ".weight", role, rows, cols, layer_, expert_});
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
      specs_.push_back({prefix + "gate.e_score_correction_bias", TensorRole::kRouterBias,
                        moe.router.n_routed_experts, 0, layer_, -1});
    }
    for (expert_ = 0; expert_ < moe.router.n_routed_experts; ++expert_) {
      AddMlp(absl::StrCat(prefix, "experts.", expert_, "."), moe.moe_intermediate_size);
    }
    expert_ = -1;
    if (moe.n_shared_experts > 0) {
      AddMlp(prefix + "shared_experts.",
             static_cast<int64_t>(moe.n_shared_experts) * moe.moe_intermediate_size);
    }
  }

  const ModelConfig& config_;
  std::vector<TensorSpec> specs_;
  int layer_ = -1;
  int expert_ = -1;
};

}  // namespace

std::vector<TensorSpec> CheckpointTensors(const ModelConfig& config) {
  return ManifestBuilder(config).Build();
}

}  // namespace shoal
