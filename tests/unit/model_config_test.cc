// SPDX-License-Identifier: Apache-2.0
// Shows that released configs parse into what their models are, that YaRN's published numbers come
// out, and that every key that is absurd, missing, unknown or different in its mathematics is
// refused by name.
#include "engine/config/model_config.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_replace.h"
#include "engine/config/cache_layout.h"
#include "engine/config/rope.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/released_configs.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;

ModelConfig Parse(const std::string& json) {
  auto config = ParseModelConfig(json, "");
  EXPECT_TRUE(config.ok()) << config.status();
  return config.ok() ? *config : ModelConfig();
}

// The V3 config with one piece of text replaced.
std::string V3With(const std::string& from, const std::string& to) {
  const std::string json = absl::StrReplaceAll(kConfigV3, {{from, to}});
  EXPECT_NE(json, kConfigV3) << from;
  return json;
}

TEST(ModelConfig, V3) {
  const ModelConfig config = Parse(kConfigV3);
  EXPECT_EQ(config.generation, Generation::kV3);
  ASSERT_EQ(config.layers.size(), 61u);
  const auto experts = config.RoutedExperts();
  EXPECT_EQ(std::count(experts.begin(), experts.end(), 0), 3);
  EXPECT_EQ(experts[3], 256);
  const auto& mla = std::get<MlaConfig>(config.layers[5].attention);
  EXPECT_EQ(mla.q_lora_rank, 1536);
  EXPECT_NEAR(mla.SoftmaxScale(), 0.13523378, 1e-8);
  EXPECT_FLOAT_EQ(mla.rope.CosSinScale(), 1.0f);
  const auto& router = std::get<MoeConfig>(config.layers[5].ffn).router;
  EXPECT_EQ(router.topk_method, TopkMethod::kNoAuxTc);
  EXPECT_EQ(router.n_group, 8);
  EXPECT_EQ(config.ExpertGroups(), 8);
  EXPECT_EQ(router.topk_group, 4);
  EXPECT_TRUE(router.norm_topk_prob);
  EXPECT_FLOAT_EQ(router.routed_scaling_factor, 2.5f);
  ASSERT_TRUE(config.quant.has_value());
  EXPECT_FALSE(config.quant->ue8m0);
  EXPECT_EQ(config.num_nextn_predict_layers, 1);
  EXPECT_EQ(config.eos_token_ids, std::vector<int32_t>{1});
  EXPECT_EQ(MakeCacheLayout(config, 2).BytesPerToken(), 70272);
}

TEST(ModelConfig, V2LiteHasNoQueryLatent) {
  const ModelConfig config = Parse(kConfigV2Lite);
  EXPECT_EQ(config.generation, Generation::kV2);
  const auto& mla = std::get<MlaConfig>(config.layers[0].attention);
  EXPECT_EQ(mla.q_lora_rank, 0);
  EXPECT_NEAR(mla.SoftmaxScale(), 0.11472139, 1e-8);
  EXPECT_EQ(std::get<MoeConfig>(config.layers[1].ffn).router.topk_method, TopkMethod::kGreedy);
  EXPECT_EQ(std::get<MoeConfig>(config.layers[1].ffn).n_shared_experts, 2);
  EXPECT_EQ(std::get<DenseFfnConfig>(config.layers[0].ffn).intermediate_size, 10944);
  EXPECT_EQ(MakeCacheLayout(config, 2).BytesPerToken(), 31104);
}

TEST(ModelConfig, V2IsGroupLimited) {
  const ModelConfig config = Parse(kConfigV2);
  const auto& router = std::get<MoeConfig>(config.layers[1].ffn).router;
  EXPECT_EQ(router.topk_method, TopkMethod::kGroupLimitedGreedy);
  EXPECT_EQ(router.scoring_func, ScoringFunc::kSoftmax);
  EXPECT_EQ(router.topk_group, 3);
  EXPECT_FALSE(router.norm_topk_prob);
  EXPECT_EQ(MakeCacheLayout(config, 2).BytesPerToken(), 69120);
}

TEST(ModelConfig, V31HasPowerOfTwoScales) {
  const ModelConfig config =
      Parse(V3With(R"("fmt": "e4m3")", R"("fmt": "e4m3", "scale_fmt": "ue8m0")"));
  EXPECT_TRUE(config.quant->ue8m0);
}

// transformers 5 nests rope's keys and writes the layers' kinds out.
TEST(ModelConfig, ReadsTransformers5Spelling) {
  std::string json = V3With("\"rope_scaling\"", "\"rope_parameters\"");
  json = absl::StrReplaceAll(
      json,
      {{"\"rope_theta\": 10000, ", ""},
       {"\"type\": \"yarn\"", "\"rope_type\": \"yarn\", \"rope_theta\": 10000.0"},
       {"\"vocab_size\"", "\"rope_interleave\": true, \"qk_head_dim\": 192, \"vocab_size\""}});
  const ModelConfig spelled = Parse(json);
  const ModelConfig released = Parse(kConfigV3);
  const auto& a = std::get<MlaConfig>(spelled.layers[0].attention).rope;
  const auto& b = std::get<MlaConfig>(released.layers[0].attention).rope;
  EXPECT_EQ(a.InvFreq(), b.InvFreq());
}

TEST(ModelConfig, GenerationConfigsEndTokensWin) {
  auto config = ParseModelConfig(kConfigV3, R"({"eos_token_id": [1, 7]})");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->eos_token_ids, (std::vector<int32_t>{1, 7}));
  config = ParseModelConfig(kConfigV3, R"({"temperature": 0.6})");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->eos_token_ids, (std::vector<int32_t>{1}));
  EXPECT_THAT(ParseModelConfig(kConfigV3, R"({"eos_token_id": [1, 129280]})").status().message(),
              HasSubstr("eos_token_id"));
  EXPECT_THAT(ParseModelConfig(kConfigV3, "{").status().message(),
              HasSubstr("generation_config.json"));
}

struct Refusal {
  const char* from;
  const char* to;
  absl::StatusCode code;
  const char* message;
};

class Refused : public ::testing::TestWithParam<Refusal> {};

TEST_P(Refused, ByName) {
  const auto config = ParseModelConfig(V3With(GetParam().from, GetParam().to), "");
  EXPECT_EQ(config.status().code(), GetParam().code) << config.status();
  EXPECT_THAT(config.status().message(), HasSubstr(GetParam().message));
}

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kUnknown = absl::StatusCode::kUnimplemented;

INSTANTIATE_TEST_SUITE_P(
    ModelConfig, Refused,
    ::testing::Values(
        Refusal{"\"hidden_size\": 7168", "\"hidden_size\": 0", kInvalid,
                "hidden_size: want an integer"},
        Refusal{"\"hidden_size\": 7168", "\"hidden_size\": -7168", kInvalid, "found -7168"},
        Refusal{"\"hidden_size\": 7168", "\"hidden_size\": 1e18", kInvalid, "hidden_size"},
        Refusal{"\"hidden_size\": 7168", "\"hidden_size\": 18446744073709551615", kInvalid,
                "hidden_size"},
        Refusal{"\"hidden_size\": 7168", "\"hidden_size\": 7168.5", kInvalid, "hidden_size"},
        Refusal{"\"hidden_size\": 7168", "\"hidden_size\": \"7168\"", kInvalid, "hidden_size"},
        Refusal{"\"hidden_size\": 7168,", "", kInvalid,
                "hidden_size: want an integer 1..262144, found nothing"},
        Refusal{"\"vocab_size\": 129280", "\"vocab_size\": 100000000000", kInvalid, "vocab_size"},
        Refusal{"\"num_hidden_layers\": 61", "\"num_hidden_layers\": 100000", kInvalid,
                "num_hidden_layers"},
        Refusal{"\"qk_rope_head_dim\": 64", "\"qk_rope_head_dim\": 63", kInvalid,
                "qk_rope_head_dim"},
        Refusal{"\"rms_norm_eps\": 1e-06", "\"rms_norm_eps\": -1", kInvalid, "rms_norm_eps"},
        Refusal{"\"rope_theta\": 10000", "\"rope_theta\": 0", kInvalid, "rope_theta"},
        Refusal{"\"factor\": 40", "\"factor\": 0", kInvalid, "factor"},
        Refusal{"\"n_group\": 8", "\"n_group\": 7", kInvalid, "n_group"},
        Refusal{"\"topk_group\": 4", "\"topk_group\": 9", kInvalid, "topk_group"},
        Refusal{"\"num_experts_per_tok\": 8", "\"num_experts_per_tok\": 300", kInvalid,
                "num_experts_per_tok"},
        Refusal{"\"num_experts_per_tok\": 8", "\"num_experts_per_tok\": 129", kInvalid,
                "num_experts_per_tok"},
        Refusal{"\"eos_token_id\": 1", "\"eos_token_id\": 129280", kInvalid, "eos_token_id"},
        Refusal{"\"routed_scaling_factor\": 2.5, ", "", kInvalid, "routed_scaling_factor"},
        Refusal{"DeepseekV3ForCausalLM", "LlamaForCausalLM", kUnknown, "LlamaForCausalLM"},
        Refusal{"deepseek_v3", "deepseek_v4", kUnknown, "deepseek_v4"},
        Refusal{"\"hidden_act\": \"silu\"", "\"hidden_act\": \"gelu\"", kUnknown, "hidden_act"},
        Refusal{"\"attention_bias\": false", "\"attention_bias\": true", kUnknown,
                "attention_bias"},
        Refusal{"\"type\": \"yarn\"", "\"type\": \"linear\"", kUnknown, "linear"},
        Refusal{"\"type\": \"yarn\"", "\"type\": \"yarn\", \"attention_factor\": 2", kUnknown,
                "attention_factor"},
        Refusal{"\"scoring_func\": \"sigmoid\"", "\"scoring_func\": \"sqrtsoftplus\"", kUnknown,
                "sqrtsoftplus"},
        Refusal{"\"quant_method\": \"fp8\"", "\"quant_method\": \"gptq\"", kUnknown, "gptq"},
        Refusal{"[128, 128]", "[32, 32]", kUnknown, "weight_block_size"},
        Refusal{"\"num_key_value_heads\": 128", "\"num_key_value_heads\": 8", kUnknown,
                "num_key_value_heads"},
        Refusal{"\"use_cache\": true", "\"index_topk\": 2048", kUnknown, "index_topk"},
        Refusal{"\"use_cache\": true", "\"sliding_window\": 4096", kUnknown, "sliding_window"}));

TEST(ModelConfig, RefusesWhatIsNotAnObject) {
  for (const char* text : {"", "{", "[]", "null", "{\"a\":}", "\xff\xfe"}) {
    EXPECT_EQ(ParseModelConfig(text, "").status().code(), absl::StatusCode::kInvalidArgument)
        << text;
  }
  EXPECT_EQ(ParseModelConfig("{}", "").status().code(), absl::StatusCode::kUnimplemented);
}

// arXiv:2309.00071 with DeepSeek's numbers: dimensions 0..9 keep their frequency, those from 23 on
// turn 40 times slower.
TEST(Rope, YarnInterpolatesSlowWavesOnly) {
  const ModelConfig config = Parse(kConfigV3);
  RopeConfig rope = std::get<MlaConfig>(config.layers[0].attention).rope;
  const std::vector<double> stretched = RopeFrequencies(rope);
  rope.yarn.reset();
  const std::vector<double> plain = RopeFrequencies(rope);
  ASSERT_EQ(stretched.size(), 32u);
  EXPECT_DOUBLE_EQ(plain[0], 1.0);
  EXPECT_NEAR(plain[16], 0.01, 1e-15);
  EXPECT_DOUBLE_EQ(stretched[10], plain[10]);
  EXPECT_LT(stretched[11], plain[11]);
  EXPECT_GT(stretched[22], plain[22] / 40 * 1.0001);
  EXPECT_NEAR(stretched[23], plain[23] / 40, 1e-15);
  EXPECT_NEAR(YarnMscale(40, 0.707), 1.2608038, 1e-7);
}

TEST(Rope, TablesAreExactFarOut) {
  RopeConfig rope;
  rope.dim = 4;
  const RopeTables tables = MakeRopeTables(rope, 100001);
  ASSERT_EQ(tables.cos.size(), 200002u);
  EXPECT_EQ(tables.cos[200000], static_cast<float>(std::cos(100000.0)));
  EXPECT_EQ(tables.sin[200001], static_cast<float>(std::sin(100000.0 * std::pow(10000.0, -0.5))));
}

}  // namespace
}  // namespace shoal
