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
#include "engine/config/parse_parts_internal.h"

namespace shoal {
namespace {

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

  const MlaConfig attention = ParseMla(reader);
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
