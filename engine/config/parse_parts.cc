// SPDX-License-Identifier: Apache-2.0
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/config/parse_parts_internal.h"

namespace shoal {

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

MlaConfig ParseMla(ConfigReader& reader) {
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

namespace {

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

}  // namespace

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

}  // namespace shoal
