// SPDX-License-Identifier: Apache-2.0
// Shows that the reference backend computes the published models: for each tiny checkpoint and
// prompt, logits at every position, every layer's output and both its sublayers', the experts
// chosen and their weights, and 24 greedy tokens, all within the float32 tolerances of
// tests/golden/models/README.md.
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/config/read_model_config.h"
#include "engine/device/reference/reference_kernels.h"
#include "gtest/gtest.h"
#include "tests/golden/golden_file.h"
#include "tests/golden/recording_kernels.h"
#include "tests/golden/single_sequence.h"

namespace shoal {
namespace {

void ExpectClose(const std::vector<float>& found, const std::vector<float>& golden, double max_abs,
                 double relative, const std::string& what) {
  const Distance distance = Compare(found, golden);
  EXPECT_LE(distance.max_abs, max_abs) << what;
  EXPECT_LE(distance.relative, relative) << what;
}

// Per-layer tensors of the last Feed against golden keys that start with `prefix`.
void CompareLayers(const SingleSequence& run, const GoldenFile& golden, const std::string& prefix,
                   double max_abs, double relative, double weight_tolerance) {
  size_t mixtures = 0;
  ASSERT_EQ(run.kernels().added.size(), 2 * run.config().layers.size());
  for (size_t i = 0; i < run.config().layers.size(); ++i) {
    const std::string layer = absl::StrCat(prefix, "layers.", i, ".");
    ExpectClose(run.kernels().added[2 * i], golden.Floats(layer + "attn_output"), max_abs, relative,
                layer + "attn_output");
    ExpectClose(run.kernels().added[2 * i + 1], golden.Floats(layer + "ffn_output"), max_abs,
                relative, layer + "ffn_output");
    ExpectClose(run.layer_outputs[i], golden.Floats(layer + "output"), max_abs, relative,
                layer + "output");
    ASSERT_EQ(golden.Has(layer + "experts"),
              std::holds_alternative<MoeConfig>(run.config().layers[i].ffn));
    if (!golden.Has(layer + "experts")) continue;
    ASSERT_LT(mixtures, run.kernels().routings.size());
    const RecordingKernels::Routing& routing = run.kernels().routings[mixtures++];
    EXPECT_EQ(routing.experts, golden.Ints(layer + "experts")) << layer;
    EXPECT_LE(Compare(routing.weights, golden.Floats(layer + "expert_weights")).max_abs,
              weight_tolerance)
        << layer;
  }
}

class ModelGolden : public ::testing::TestWithParam<std::string> {};

TEST_P(ModelGolden, LogitsLayersExpertsAndGreedyTokens) {
  const std::string model = GetParam();
  const GoldenFile golden(model);
  SingleSequence run(ModelsFolder() + model, "reference", false);
  const size_t vocab = run.config().vocab_size;
  for (const std::string prompt : {"c0", "c1", "c2"}) {
    SCOPED_TRACE(prompt);
    run.Restart();
    std::vector<float> logits = run.Feed(golden.Ints(prompt + ".tokens"));
    const std::vector<float> wanted = golden.Floats(prompt + ".logits");
    ExpectClose(logits, wanted, 2e-4, 1e-5, "logits");
    const Distance distance = Compare(logits, wanted);
    std::printf("%s %s: logits max abs %.2g, relative %.2g\n", model.c_str(), prompt.c_str(),
                distance.max_abs, distance.relative);
    CompareLayers(run, golden, prompt + ".", 2e-4, 1e-5, model == "v2" ? 1e-4 : 1e-5);
    for (int32_t token : golden.Ints(prompt + ".greedy")) {
      const int32_t best = Best(logits, vocab);
      ASSERT_EQ(best, token);
      logits = run.Feed({best});
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Reference, ModelGolden,
                         ::testing::Values("v2-lite", "v2", "v3", "v3-fp8", "odd"));

TEST(ModelGolden, OfficialFp8Activations) {
  const GoldenFile golden("v3-fp8");
  SingleSequence run(ModelsFolder() + "v3-fp8", "reference", true);
  for (const std::string prompt : {"c0", "c1", "c2"}) {
    SCOPED_TRACE(prompt);
    run.Restart();
    const std::vector<float> logits = run.Feed(golden.Ints(prompt + ".tokens"));
    ExpectClose(logits, golden.Floats(prompt + ".logits_actquant"), 1e-3, 1e-4, "logits");
    CompareLayers(run, golden, prompt + ".actquant.", 1e-3, 1e-4, 1e-5);
    // The two numerics differ by far more than the tolerance, so the flag does something.
    EXPECT_GT(Compare(logits, golden.Floats(prompt + ".logits")).relative, 1e-3);
  }
}

TEST(ModelGolden, Fp8LinearAlone) {
  const GoldenFile golden("v3-fp8");
  auto checkpoint =
      SafetensorsFile::Open(ModelsFolder() + "v3-fp8/model-00001-of-000002.safetensors");
  ASSERT_TRUE(checkpoint.ok());
  const auto tensor = [&](const std::string& name) {
    const TensorEntry& entry = (*checkpoint)->tensors().at(name);
    return TensorView(const_cast<std::byte*>((*checkpoint)->Data(entry).data()), *entry.dtype,
                      {entry.shape[0], entry.shape[1]});
  };
  const QuantTensor weight = {tensor("model.layers.0.mlp.down_proj.weight"),
                              tensor("model.layers.0.mlp.down_proj.weight_scale_inv"), 128, 128};
  const auto kernels = CreateReferenceKernels();
  const auto prepared = kernels->PrepareLinear(weight, {.fp8_activations = true});
  ASSERT_TRUE(prepared.ok());
  std::vector<float> input = golden.Floats("unit.fp8_linear.input");
  std::vector<float> output(6 * weight.rows());
  const auto stream = kernels->NewStream();
  kernels->Linear(*stream, TensorView(input.data(), DType::kF32, {6, weight.cols()}), **prepared,
                  TensorView(output.data(), DType::kF32, {6, weight.rows()}));
  EXPECT_LE(Compare(output, golden.Floats("unit.fp8_linear.output")).relative, 1e-5);
}

TEST(ModelGolden, RopeAndSoftmaxScale) {
  for (const std::string model : {"v2-lite", "v2", "v3", "v3-fp8", "odd"}) {
    const GoldenFile golden(model);
    const auto config = ReadModelConfig(ModelsFolder() + model);
    ASSERT_TRUE(config.ok()) << config.status();
    const auto& mla = std::get<MlaConfig>(config->layers[0].attention);
    EXPECT_LE(Compare(mla.rope.InvFreq(), golden.Floats("rope.inv_freq")).relative, 1e-7) << model;
    EXPECT_NEAR(mla.SoftmaxScale(), golden.Floats("attn.scale")[0], 1e-7) << model;
  }
}

// The trained model: 640 tokens, past the context YaRN starts from; 64 greedy tokens.
TEST(ModelGolden, ShoalTiny) {
  const GoldenFile golden("shoal-tiny");
  SingleSequence run(std::string(SHOAL_SOURCE_DIR) + "/deploy/models/shoal-tiny", "reference",
                     false);
  const size_t vocab = run.config().vocab_size;
  for (const std::string prompt : {"c0", "c1", "c2"}) {
    SCOPED_TRACE(prompt);
    run.Restart();
    std::vector<float> logits = run.Feed(golden.Ints(prompt + ".tokens"));
    std::vector<float> rows;
    for (int32_t row : golden.Ints(prompt + ".rows")) {
      rows.insert(rows.end(), logits.begin() + row * vocab, logits.begin() + (row + 1) * vocab);
    }
    ExpectClose(rows, golden.Floats(prompt + ".logits"), 2e-4, 1e-5, "logits");
    for (int32_t token : golden.Ints(prompt + ".greedy")) {
      const int32_t best = Best(logits, vocab);
      ASSERT_EQ(best, token);
      logits = run.Feed({best});
    }
  }
}

}  // namespace
}  // namespace shoal
