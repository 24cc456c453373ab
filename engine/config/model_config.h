// SPDX-License-Identifier: Apache-2.0
// The one description all generations parse into: a list of layers, each choosing among a few
// parts. Pure data; the coordinator reads it too. Field names are the checkpoint's own keys.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace shoal {

enum class Generation { kV2, kV3 };
absl::string_view GenerationName(Generation generation);  // "DeepSeek-V2", "DeepSeek-V3"

// YaRN (arXiv:2309.00071) as DeepSeek writes it.
struct YarnConfig {
  double factor = 1;
  double beta_fast = 32;
  double beta_slow = 1;
  double mscale = 1;
  double mscale_all_dim = 0;
  int64_t original_max_position_embeddings = 4096;
};

struct RopeConfig {
  int dim = 0;  // qk_rope_head_dim
  double rope_theta = 10000;
  std::optional<YarnConfig> yarn;

  // Frequencies [dim/2], f32, and the factor on cos and sin (1 for every released model).
  std::vector<float> InvFreq() const;
  float CosSinScale() const;
};

// Multi-head latent attention, arXiv:2405.04434 sec. 2.1.
struct MlaConfig {
  int num_attention_heads = 0;
  int q_lora_rank = 0;  // 0: a single q_proj
  int kv_lora_rank = 0;
  int qk_nope_head_dim = 0;
  int qk_rope_head_dim = 0;
  int v_head_dim = 0;
  RopeConfig rope;

  // (nope + rope)^-0.5 * mscale(mscale_all_dim)^2.
  float SoftmaxScale() const;
};
using AttentionConfig = std::variant<MlaConfig>;

enum class ScoringFunc { kSoftmax, kSigmoid };
enum class TopkMethod { kGreedy, kGroupLimitedGreedy, kNoAuxTc };

struct RouterConfig {
  ScoringFunc scoring_func = ScoringFunc::kSigmoid;
  TopkMethod topk_method = TopkMethod::kNoAuxTc;
  int n_routed_experts = 0;
  int num_experts_per_tok = 0;
  int n_group = 1;
  int topk_group = 1;
  bool norm_topk_prob = false;
  float routed_scaling_factor = 1.0f;
};

struct DenseFfnConfig {
  int intermediate_size = 0;
};
struct MoeConfig {
  RouterConfig router;
  int moe_intermediate_size = 0;
  int n_shared_experts = 0;  // one FFN of width n_shared_experts * moe_intermediate_size
};
using FfnConfig = std::variant<DenseFfnConfig, MoeConfig>;

// x + sublayer(x). Generations with residual streams add an alternative.
struct AddResidualConfig {};
using ResidualConfig = std::variant<AddResidualConfig>;

struct LayerConfig {
  AttentionConfig attention;
  FfnConfig ffn;
  ResidualConfig residual;
};

// How the checkpoint's linear weights are stored, when quantised.
struct WeightQuantConfig {
  int block_rows = 128;
  int block_cols = 128;
  bool ue8m0 = false;  // activation scales are powers of two (`scale_fmt`)
};

struct ModelConfig {
  Generation generation = Generation::kV3;
  int hidden_size = 0;
  int vocab_size = 0;
  float rms_norm_eps = 1e-6f;
  int64_t max_position_embeddings = 0;
  bool tie_word_embeddings = false;
  int32_t bos_token_id = -1;
  std::vector<int32_t> eos_token_ids;
  int num_nextn_predict_layers = 0;
  std::optional<WeightQuantConfig> quant;
  std::vector<LayerConfig> layers;

  // n_routed_experts of each layer, 0 for dense ones: what expert placement needs.
  std::vector<int> RoutedExperts() const;
  // n_group of the routers, the same in all MoE layers; 1 if there are none.
  int ExpertGroups() const;
  // The largest of each over the layers; 0 if none.
  int MaxRoutedExperts() const;
  int MaxExpertsPerToken() const;
};

// Parses the text of a Hugging Face `config.json` (and optionally `generation_config.json`, whose
// eos list wins). Errors: InvalidArgument for absurd or missing values; Unimplemented for an
// unknown architecture or a key that would change the mathematics; each names key, wanted, found.
absl::StatusOr<ModelConfig> ParseModelConfig(absl::string_view config_json,
                                             absl::string_view generation_config_json);

}  // namespace shoal
