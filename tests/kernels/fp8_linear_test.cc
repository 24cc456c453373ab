// SPDX-License-Identifier: Apache-2.0
// Shows that a linear layer with the official FP8 numerics is the published one: the down
// projection of a small FP8 checkpoint with partial blocks against outputs computed independently
// in f64, within 1e-5 of the row's norm; and that quantisation rounds to the same codes as the
// scalar conversion.
#include <gtest/gtest.h>

#include "engine/weights/checkpoint.h"
#include "tests/kernels/backends.h"

namespace shoal {
namespace {

using testing::Backend;
using testing::Tensor;

class Fp8LinearTest : public ::testing::TestWithParam<Backend> {};

TEST_P(Fp8LinearTest, MatchesTheGolden) {
  const std::string directory = SHOAL_SOURCE_DIR "/tests/golden/models/v3-fp8";
  const auto checkpoint = Checkpoint::Open(directory);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto golden = SafetensorsFile::Open(directory + "/golden.safetensors");
  ASSERT_TRUE(golden.ok()) << golden.status();
  // Copied, since tensors in a file need not be aligned.
  const auto load = [](const SafetensorsFile& file, const TensorEntry& entry) {
    Tensor tensor(entry.dtype.value(), {entry.shape[0], entry.shape[1]});
    std::memcpy(tensor.view().data(), file.Data(entry).data(), tensor.view().bytes());
    return tensor;
  };
  const auto weight = [&](const std::string& name) {
    const Checkpoint::Location* location = (*checkpoint)->Find(name);
    EXPECT_NE(location, nullptr) << name;
    return load(*location->shard, *location->entry);
  };
  const Tensor data = weight("model.layers.0.mlp.down_proj.weight");
  const Tensor scales = weight("model.layers.0.mlp.down_proj.weight_scale_inv");
  const Tensor x = load(**golden, (*golden)->tensors().at("unit.fp8_linear.input"));
  const Tensor want = load(**golden, (*golden)->tensors().at("unit.fp8_linear.output"));

  const auto kernels = GetParam().Make(2);
  const auto prepared = kernels->PrepareLinear({data, scales, 128, 128}, {true, false});
  ASSERT_TRUE(prepared.ok()) << prepared.status();
  const int64_t rows = want.view().dim(0), outputs = want.view().dim(1);
  const Tensor y(DType::kF32, {rows, outputs});
  auto stream = kernels->NewStream();
  kernels->Linear(*stream, x, **prepared, y);
  for (int64_t t = 0; t < rows; ++t) {
    double error = 0;
    for (int64_t n = 0; n < outputs; ++n)
      error += std::pow(y.At(t * outputs + n) - want.At(t * outputs + n), 2);
    const float norm = testing::Norm(want, t * outputs, outputs);
    EXPECT_LE(std::sqrt(error), 1e-5 * norm) << "row " << t;
  }
}

// An identity weight hands the quantised values back: x / s rounded to a code, times s.
TEST_P(Fp8LinearTest, QuantisesAsTheScalarConversion) {
  constexpr int64_t kCols = 200;
  Tensor identity(DType::kF8E4M3, {kCols, kCols}), scales(DType::kF32, {2, 2});
  for (int64_t i = 0; i < kCols; ++i) identity.Set(i * kCols + i, 1.0f);
  for (int64_t i = 0; i < 4; ++i) scales.Set(i, 1.0f);
  std::mt19937 random{31};
  constexpr int64_t kRows = 300;
  Tensor x(DType::kF32, {kRows, kCols});
  std::uniform_real_distribution<float> exponent(-20, 10);
  for (int64_t i = 0; i < kRows * kCols; ++i) {
    // Half of them exactly between two codes once divided by the scale of a row whose largest value
    // is 448.
    const float magnitude = std::exp2(exponent(random));
    float value = i % 2 == 0 ? magnitude
                             : std::ldexp(static_cast<float>(17 + 2 * (random() % 8)),
                                          -5 + static_cast<int>(random() % 12) - 6);
    if (random() % 2 == 0) value = -value;
    x.Set(i, i % kCols % 128 == 0 ? 448.0f : std::min(448.0f, std::max(-448.0f, value)));
  }
  for (const bool ue8m0 : {false, true}) {
    const auto kernels = GetParam().Make(1);
    const auto prepared =
        kernels->PrepareLinear({identity, scales, 128, 128}, {true, ue8m0}).value();
    const Tensor y(DType::kF32, {kRows, kCols});
    auto stream = kernels->NewStream();
    kernels->Linear(*stream, x, *prepared, y);
    for (int64_t i = 0; i < kRows * kCols; ++i) {
      // The scale is 448 / 448 = 1 in both forms.
      ASSERT_EQ(y.At(i), E4M3ToFloat(FloatToE4M3(x.At(i)))) << x.At(i);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, Fp8LinearTest, ::testing::ValuesIn(testing::Backends()),
                         testing::BackendName);

}  // namespace
}  // namespace shoal
