// SPDX-License-Identifier: Apache-2.0
// DeepSeek-V2, Coder-V2, V2.5, V3, R1 and V3.1: config.json to ModelConfig. Every key is either
// read, known to change nothing, or refused by name.
#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/base/status_macros.h"
#include "engine/config/config_reader_internal.h"
#include "engine/config/model_config.h"

namespace shoal {
namespace {

// No model comes near these; beyond them a number is a mistake, and products would overflow.
constexpr int64_t kMaxWidth = 1 << 18;
constexpr int64_t kMaxLayers = 1 << 10;
constexpr int64_t kMaxHeads = 1 << 12;
constexpr int64_t kMaxExperts = 1 << 13;
constexpr int64_t kMaxVocabulary = 1 << 24;
constexpr int64_t kMaxPositions = int64_t{1} << 30;

RopeConfig ParseRope(ConfigReader& reader, int rope_dim) {
  RopeConfig rope;
  rope.dim = rope_dim;
  // Released files: rope_theta beside rope_scaling. transformers 5: both within rope_parameters.
  const bool nested = reader.Has("rope_parameters");
  if (!nested || reader.Has("rope_theta")) {
    rope.rope_theta = reader.NumberOr("rope_theta", 10000, 1.0001, 1e12);
  }
  const char* key = nested ? "rope_parameters" : "rope_scaling";
  if (!reader.Has(key)) return rope;
  ConfigReader scaling = reader.Object(key);
  if (nested) rope.rope_theta = scaling.NumberOr("rope_theta", rope.rope_theta, 1.0001, 1e12);
  const std::string rope_type = scaling.StringOr("rope_type", "");
  const std::string type = scaling.StringOr("type", rope_type.empty() ? "default" : rope_type);
  if (!rope_type.empty() && rope_type != type) {
    scaling.Invalid("type", absl::StrCat("the rope_type ", rope_type), type);
  }
  if (type == "yarn") {
    YarnConfig yarn;
    yarn.factor = scaling.Number("factor", 1, 1e6);
    yarn.beta_fast = scaling.NumberOr("beta_fast", 32, 1e-3, 1e6);
    yarn.beta_slow = scaling.NumberOr("beta_slow", 1, 1e-3, 1e6);
    yarn.mscale = scaling.NumberOr("mscale", 1, 0, 100);
    yarn.mscale_all_dim = scaling.NumberOr("mscale_all_dim", 0, 0, 100);
    yarn.original_max_position_embeddings =
        scaling.IntOr("original_max_position_embeddings", 4096, 1, kMaxPositions);
    if (yarn.beta_fast < yarn.beta_slow) {
      scaling.Invalid("beta_fast", absl::StrCat("at least beta_slow ", yarn.beta_slow),
                      absl::StrCat(yarn.beta_fast));
    }
    rope.yarn = yarn;
  } else if (type != "default") {
    scaling.Unsupported(scaling.Has("type") ? "type" : "rope_type", "yarn and default", type);
  }
  reader.Adopt(scaling);
  return rope;
}

MlaConfig ParseAttention(ConfigReader& reader) {
  MlaConfig mla;
  mla.num_attention_heads = static_cast<int>(reader.Int("num_attention_heads", 1, kMaxHeads));
  mla.q_lora_rank = static_cast<int>(reader.IntOr("q_lora_rank", 0, 1, kMaxWidth));
  mla.kv_lora_rank = static_cast<int>(reader.Int("kv_lora_rank", 1, kMaxWidth));
  mla.qk_nope_head_dim = static_cast<int>(reader.Int("qk_nope_head_dim", 1, kMaxWidth));
  mla.qk_rope_head_dim = static_cast<int>(reader.Int("qk_rope_head_dim", 2, kMaxWidth));
  mla.v_head_dim = static_cast<int>(reader.Int("v_head_dim", 1, kMaxWidth));
  if (mla.qk_rope_head_dim % 2 != 0) {
    reader.Invalid("qk_rope_head_dim", "an even number", absl::StrCat(mla.qk_rope_head_dim));
  }
  const int64_t kv_heads =
      reader.IntOr("num_key_value_heads", mla.num_attention_heads, 1, kMaxHeads);
  if (kv_heads != mla.num_attention_heads) {
    reader.Unsupported("num_key_value_heads",
                       absl::StrCat("num_attention_heads ", mla.num_attention_heads),
                       absl::StrCat(kv_heads));
  }
  const int64_t qk_head_dim = mla.qk_nope_head_dim + mla.qk_rope_head_dim;
  if (reader.IntOr("qk_head_dim", qk_head_dim, 1, 2 * kMaxWidth) != qk_head_dim) {
    reader.Invalid("qk_head_dim", absl::StrCat("nope + rope = ", qk_head_dim),
                   reader.Found("qk_head_dim"));
  }
  if (reader.BoolOr("attention_bias", false)) {
    reader.Unsupported("attention_bias", "false", "true");
  }
  if (!reader.BoolOr("rope_interleave", true)) {
    reader.Unsupported("rope_interleave", "true", "false");
  }
  mla.rope = ParseRope(reader, mla.qk_rope_head_dim);
  return mla;
}

void CheckGroups(ConfigReader& reader, const RouterConfig& router) {
  const int experts = router.n_routed_experts;
  if (experts % router.n_group != 0) {
    reader.Invalid("n_group", absl::StrCat("a divisor of n_routed_experts ", experts),
                   absl::StrCat(router.n_group));
    return;
  }
  const int group_size = experts / router.n_group;
  if (router.topk_group > router.n_group) {
    reader.Invalid("topk_group", absl::StrCat("at most n_group ", router.n_group),
                   absl::StrCat(router.topk_group));
  } else if (router.num_experts_per_tok > router.topk_group * group_size) {
    reader.Invalid("num_experts_per_tok",
                   absl::StrCat("at most the ", router.topk_group * group_size,
                                " experts of topk_group groups"),
                   absl::StrCat(router.num_experts_per_tok));
  } else if (router.topk_method == TopkMethod::kNoAuxTc && router.n_group > 1 && group_size < 2) {
    // A group's score is the sum of its two best experts.
    reader.Invalid("n_group", "groups of at least two experts", absl::StrCat(router.n_group));
  }
}

RouterConfig ParseRouter(ConfigReader& reader, Generation generation) {
  const bool v3 = generation == Generation::kV3;
  RouterConfig router;
  router.n_routed_experts = static_cast<int>(reader.Int("n_routed_experts", 1, kMaxExperts));
  router.num_experts_per_tok =
      static_cast<int>(reader.Int("num_experts_per_tok", 1, router.n_routed_experts));
  router.n_group = static_cast<int>(reader.IntOr("n_group", 1, 1, kMaxExperts));
  router.topk_group = static_cast<int>(reader.IntOr("topk_group", router.n_group, 1, kMaxExperts));
  router.norm_topk_prob = reader.BoolOr("norm_topk_prob", v3);
  router.routed_scaling_factor =
      static_cast<float>(reader.Number("routed_scaling_factor", 1e-6, 1e6));

  const std::string scoring = reader.StringOr("scoring_func", v3 ? "sigmoid" : "softmax");
  const std::string method = reader.StringOr("topk_method", v3 ? "noaux_tc" : "greedy");
  if (scoring == "softmax" && method == "greedy") {
    router.scoring_func = ScoringFunc::kSoftmax;
    router.topk_method = TopkMethod::kGreedy;
    return router;  // groups, if named at all, are not looked at
  }
  if (scoring == "softmax" && method == "group_limited_greedy") {
    router.scoring_func = ScoringFunc::kSoftmax;
    router.topk_method = TopkMethod::kGroupLimitedGreedy;
  } else if (scoring == "sigmoid" && method == "noaux_tc") {
    router.scoring_func = ScoringFunc::kSigmoid;
    router.topk_method = TopkMethod::kNoAuxTc;
  } else {
    reader.Unsupported("scoring_func, topk_method",
                       "softmax greedy, softmax group_limited_greedy, sigmoid noaux_tc",
                       absl::StrCat(scoring, " ", method));
    return router;
  }
  CheckGroups(reader, router);
  return router;
}

std::optional<WeightQuantConfig> ParseQuantisation(ConfigReader& reader) {
  if (!reader.Has("quantization_config")) return std::nullopt;
  WeightQuantConfig quant;
  ConfigReader fields = reader.Object("quantization_config");
  const std::string method = fields.StringOr("quant_method", "");
  if (method != "fp8") fields.Unsupported("quant_method", "fp8", fields.Found("quant_method"));
  if (fields.StringOr("fmt", "e4m3") != "e4m3") {
    fields.Unsupported("fmt", "e4m3", fields.Found("fmt"));
  }
  if (fields.StringOr("activation_scheme", "dynamic") != "dynamic") {
    fields.Unsupported("activation_scheme", "dynamic", fields.Found("activation_scheme"));
  }
  const std::vector<int64_t> block = fields.IntOrInts("weight_block_size", 1, kMaxWidth);
  if (block != std::vector<int64_t>{quant.block_rows, quant.block_cols}) {
    fields.Unsupported("weight_block_size", "[128,128]", fields.Found("weight_block_size"));
  }
  const std::string scale_fmt = fields.StringOr("scale_fmt", "float");
  if (scale_fmt != "float" && scale_fmt != "ue8m0") {
    fields.Unsupported("scale_fmt", "ue8m0, or none", scale_fmt);
  }
  quant.ue8m0 = scale_fmt == "ue8m0";
  // Which tensors are quantised is read from the tensors themselves.
  fields.Ignore({"modules_to_not_convert", "ignored_layers", "dequantize"});
  reader.Adopt(fields);
  return quant;
}

// Which layers are mixtures: the released keys, or transformers 5's explicit list.
std::vector<bool> ParseSparseLayers(ConfigReader& reader, int layers) {
  const int64_t first_dense = reader.IntOr("first_k_dense_replace", 0, 0, kMaxLayers);
  const int64_t frequency = reader.IntOr("moe_layer_freq", 1, 1, kMaxLayers);
  const bool any = reader.Has("n_routed_experts");
  std::vector<bool> sparse(layers);
  for (int i = 0; i < layers; ++i) sparse[i] = any && i >= first_dense && i % frequency == 0;

  const std::vector<std::string> types = reader.Strings("mlp_layer_types");
  if (types.empty()) return sparse;
  if (static_cast<int>(types.size()) != layers) {
    reader.Invalid("mlp_layer_types", absl::StrCat(layers, " entries"), absl::StrCat(types.size()));
    return sparse;
  }
  for (int i = 0; i < layers; ++i) {
    if (types[i] != "dense" && types[i] != "sparse") {
      reader.Unsupported("mlp_layer_types", "dense and sparse", types[i]);
    }
    if (types[i] == "sparse" && !any) reader.Int("n_routed_experts", 1, kMaxExperts);
    sparse[i] = types[i] == "sparse";
  }
  return sparse;
}

std::optional<Generation> ParseGeneration(ConfigReader& reader) {
  const std::vector<std::string> architectures = reader.Strings("architectures");
  const std::string model_type = reader.StringOr("model_type", "");
  const std::string architecture = architectures.empty() ? "" : architectures[0];
  const auto matches = [&](absl::string_view wanted_architecture, absl::string_view wanted_type) {
    return (architecture.empty() || architecture == wanted_architecture) &&
           (model_type.empty() || model_type == wanted_type) &&
           !(architecture.empty() && model_type.empty());
  };
  if (matches("DeepseekV2ForCausalLM", "deepseek_v2")) return Generation::kV2;
  if (matches("DeepseekV3ForCausalLM", "deepseek_v3")) return Generation::kV3;
  reader.Unsupported("architectures",
                     "DeepseekV2ForCausalLM (deepseek_v2) and DeepseekV3ForCausalLM (deepseek_v3)",
                     absl::StrCat(reader.Found("architectures"), " (model_type ",
                                  reader.Found("model_type"), ")"));
  return std::nullopt;
}

// Keys of training, of tools, or of Hugging Face's base class that no forward pass reads.
void IgnoreHarmless(ConfigReader& reader) {
  reader.Ignore({"aux_loss_alpha",
                 "seq_aux",
                 "ep_size",
                 "pretraining_tp",
                 "attention_dropout",
                 "initializer_range",
                 "use_cache",
                 "torch_dtype",
                 "dtype",
                 "transformers_version",
                 "auto_map",
                 "head_dim",
                 "pad_token_id",
                 "unsloth_fixed",
                 "name_or_path",
                 "return_dict",
                 "output_hidden_states",
                 "output_attentions",
                 "is_decoder",
                 "is_encoder_decoder",
                 "id2label",
                 "label2id",
                 "problem_type",
                 "chunk_size_feed_forward",
                 "tokenizer_class",
                 "router_aux_loss_coef",
                 "output_router_logits",
                 "task_specific_params"});
}

absl::StatusOr<std::vector<int32_t>> ParseEndTokens(ConfigReader& config,
                                                    absl::string_view generation_config_json,
                                                    int64_t vocab_size) {
  std::vector<int64_t> ids = config.IntOrInts("eos_token_id", 0, vocab_size - 1);
  if (!generation_config_json.empty()) {
    SHOAL_ASSIGN_OR_RETURN(ConfigReader generation,
                           ConfigReader::Parse("generation_config.json", generation_config_json));
    const bool wins = generation.Has("eos_token_id");
    std::vector<int64_t> better = generation.IntOrInts("eos_token_id", 0, vocab_size - 1);
    if (wins && better.empty()) return generation.Finish();
    if (wins) ids = std::move(better);
  }
  return std::vector<int32_t>(ids.begin(), ids.end());
}

}  // namespace

absl::StatusOr<ModelConfig> ParseModelConfig(absl::string_view config_json,
                                             absl::string_view generation_config_json) {
  SHOAL_ASSIGN_OR_RETURN(ConfigReader reader, ConfigReader::Parse("config.json", config_json));
  const std::optional<Generation> generation = ParseGeneration(reader);
  if (!generation.has_value()) return reader.Finish();

  ModelConfig config;
  config.generation = *generation;
  config.hidden_size = static_cast<int>(reader.Int("hidden_size", 1, kMaxWidth));
  config.vocab_size = static_cast<int>(reader.Int("vocab_size", 1, kMaxVocabulary));
  config.rms_norm_eps = static_cast<float>(reader.NumberOr("rms_norm_eps", 1e-6, 0, 0.1));
  config.max_position_embeddings = reader.Int("max_position_embeddings", 1, kMaxPositions);
  config.tie_word_embeddings = reader.BoolOr("tie_word_embeddings", false);
  config.num_nextn_predict_layers =
      static_cast<int>(reader.IntOr("num_nextn_predict_layers", 0, 0, kMaxLayers));
  config.bos_token_id =
      static_cast<int32_t>(reader.IntOr("bos_token_id", -1, 0, config.vocab_size - 1));
  config.quant = ParseQuantisation(reader);
  if (reader.StringOr("hidden_act", "silu") != "silu") {
    reader.Unsupported("hidden_act", "silu", reader.Found("hidden_act"));
  }
  if (reader.BoolOr("mlp_bias", false)) reader.Unsupported("mlp_bias", "false", "true");

  const MlaConfig attention = ParseAttention(reader);
  const int layers = static_cast<int>(reader.Int("num_hidden_layers", 1, kMaxLayers));
  const std::vector<bool> sparse = ParseSparseLayers(reader, layers);
  DenseFfnConfig dense;
  MoeConfig moe;
  if (std::find(sparse.begin(), sparse.end(), false) != sparse.end()) {
    dense.intermediate_size = static_cast<int>(reader.Int("intermediate_size", 1, kMaxWidth));
  }
  if (std::find(sparse.begin(), sparse.end(), true) != sparse.end()) {
    moe.router = ParseRouter(reader, *generation);
    moe.moe_intermediate_size = static_cast<int>(reader.Int("moe_intermediate_size", 1, kMaxWidth));
    moe.n_shared_experts = static_cast<int>(reader.IntOr("n_shared_experts", 0, 0, 1024));
  }
  for (int i = 0; i < layers; ++i) {
    config.layers.push_back(
        {attention, sparse[i] ? FfnConfig(moe) : FfnConfig(dense), AddResidualConfig{}});
  }

  // Keys that only the other kind of layer needs are no mystery when that kind is absent.
  reader.Ignore({"intermediate_size", "moe_intermediate_size", "n_routed_experts",
                 "num_experts_per_tok", "n_shared_experts", "n_group", "topk_group", "topk_method",
                 "scoring_func", "norm_topk_prob", "routed_scaling_factor"});
  IgnoreHarmless(reader);
  auto end_tokens = ParseEndTokens(reader, generation_config_json, config.vocab_size);
  SHOAL_RETURN_IF_ERROR(reader.Finish());
  SHOAL_RETURN_IF_ERROR(end_tokens.status());
  config.eos_token_ids = *std::move(end_tokens);
  return config;
}

}  // namespace shoal
