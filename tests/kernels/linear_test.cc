// SPDX-License-Identifier: Apache-2.0
// Shows that products with packed weights are those of the reference, for every weight dtype, odd
// and real shapes, with a tolerance derived from the length of the sum: the same rounded inputs go
// to both.
#include <gtest/gtest.h>

#include "tests/kernels/backends.h"

namespace shoal {
namespace {

using testing::Backend;
using testing::Tensor;
using testing::Weight;

struct Case {
  int64_t rows, outputs, inputs;
};
// Tiny, odd, one below and above each unit of the packing (16 lanes, 64 rows of a panel, 4 columns,
// 128 and 256 blocks), and the models' own.
constexpr Case kCases[] = {{1, 1, 1},      {1, 3, 2},       {2, 17, 5},     {5, 15, 31},
                           {6, 16, 64},    {7, 33, 127},    {12, 65, 129},  {13, 63, 257},
                           {3, 576, 2048}, {1, 1408, 2048}, {9, 100, 1408}, {31, 88, 56},
                           {257, 70, 300}, {2, 515, 88}};

class LinearTest : public ::testing::TestWithParam<Backend> {
 protected:
  void Check(const Case& c, DType weight_dtype, DType x_dtype, DType y_dtype, DType scale_dtype,
             int block) {
    SCOPED_TRACE(::testing::Message() << c.rows << "x" << c.outputs << "x" << c.inputs << " w "
                                      << DTypeName(weight_dtype) << " x " << DTypeName(x_dtype)
                                      << " y " << DTypeName(y_dtype) << " block " << block);
    const Weight weight = testing::RandomWeight(random_, weight_dtype, c.outputs, c.inputs, 0.05f,
                                                scale_dtype, block);
    // Rounded once, here: both backends then see the same numbers.
    const Tensor rounded = testing::Random(random_, DType::kBF16, {c.rows, c.inputs});
    const Tensor x = x_dtype == DType::kBF16 ? rounded : testing::As(rounded, DType::kF32);
    const Tensor y(y_dtype, {c.rows, c.outputs}), want(DType::kF32, {c.rows, c.outputs});

    auto prepared = kernels_->PrepareLinear(weight.quant, {});
    ASSERT_TRUE(prepared.ok()) << prepared.status();
    EXPECT_EQ((*prepared)->rows, c.outputs);
    EXPECT_EQ((*prepared)->cols, c.inputs);
    auto stream = kernels_->NewStream();
    kernels_->Linear(*stream, x, **prepared, y);
    auto reference_weight = reference_->PrepareLinear(weight.quant, {});
    ASSERT_TRUE(reference_weight.ok());
    reference_->Linear(*stream, testing::As(rounded, DType::kF32), **reference_weight, want);

    Tensor values(DType::kF32, {c.outputs, c.inputs});
    Dequantise(weight.quant, values);
    for (int64_t t = 0; t < c.rows; ++t) {
      const float norm_x = testing::Norm(rounded, t * c.inputs, c.inputs);
      for (int64_t n = 0; n < c.outputs; ++n) {
        const float expected = want.At(t * c.outputs + n);
        float tolerance =
            testing::SumTolerance(c.inputs, norm_x, testing::Norm(values, n * c.inputs, c.inputs));
        if (y_dtype == DType::kBF16) tolerance += testing::BF16Tolerance(expected);
        ASSERT_NEAR(y.At(t * c.outputs + n), expected, tolerance) << "row " << t << " output " << n;
      }
    }
  }

  std::mt19937 random_{7};
  std::unique_ptr<Kernels> kernels_ = GetParam().Make(2);
  std::unique_ptr<Kernels> reference_ = testing::Reference();
};

TEST_P(LinearTest, BF16Weights) {
  for (const Case& c : kCases) Check(c, DType::kBF16, DType::kF32, DType::kF32, DType::kF32, 128);
}
TEST_P(LinearTest, BF16RowsInAndOut) {
  for (const Case& c : kCases) Check(c, DType::kBF16, DType::kBF16, DType::kBF16, DType::kF32, 128);
}
TEST_P(LinearTest, F32Weights) {
  for (const Case& c : kCases) Check(c, DType::kF32, DType::kF32, DType::kF32, DType::kF32, 128);
}
TEST_P(LinearTest, F16Weights) {
  for (const Case& c : kCases) Check(c, DType::kF16, DType::kBF16, DType::kF32, DType::kF32, 128);
}
TEST_P(LinearTest, E4M3WeightsWithF32Scales) {
  for (const Case& c : kCases) Check(c, DType::kF8E4M3, DType::kF32, DType::kF32, DType::kF32, 128);
}
TEST_P(LinearTest, E4M3WeightsWithE8M0ScalesInSmallBlocks) {
  for (const Case& c : kCases)
    Check(c, DType::kF8E4M3, DType::kF32, DType::kBF16, DType::kF8E8M0, 32);
}
// Blocks that no panel can hold a scale for are dequantised instead.
TEST_P(LinearTest, E4M3WeightsInOddBlocks) {
  for (const Case& c : kCases) Check(c, DType::kF8E4M3, DType::kF32, DType::kF32, DType::kF32, 24);
}

TEST_P(LinearTest, CompressedWeightsStayCompressed) {
  const Weight weight = testing::RandomWeight(random_, DType::kF8E4M3, 512, 1024, 0.05f);
  const auto prepared = kernels_->PrepareLinear(weight.quant, {});
  ASSERT_TRUE(prepared.ok());
  EXPECT_LT((*prepared)->bytes(), 512 * 1024 * 1.02);
}

TEST_P(LinearTest, NothingToDoIsDone) {
  const Weight weight = testing::RandomWeight(random_, DType::kBF16, 5, 8, 1.0f);
  const auto prepared = kernels_->PrepareLinear(weight.quant, {});
  ASSERT_TRUE(prepared.ok());
  auto stream = kernels_->NewStream();
  kernels_->Linear(*stream, Tensor(DType::kF32, {0, 8}), **prepared, Tensor(DType::kF32, {0, 5}));
  EXPECT_TRUE(stream->Finish().ok());
}

// A NaN or an infinity stays in its own row and reaches all of it; subnormal inputs count as the
// zeros they nearly are.
TEST_P(LinearTest, OddValuesStayInTheirRow) {
  const Weight weight = testing::RandomWeight(random_, DType::kBF16, 70, 64, 1.0f);
  const auto prepared = kernels_->PrepareLinear(weight.quant, {});
  ASSERT_TRUE(prepared.ok());
  Tensor x = testing::Random(random_, DType::kF32, {9, 64});
  x.Set(2 * 64 + 7, NAN);
  x.Set(4 * 64 + 3, INFINITY);
  for (int64_t k = 0; k < 64; ++k) x.Set(6 * 64 + k, 1e-40f);
  const Tensor y(DType::kF32, {9, 70});
  auto stream = kernels_->NewStream();
  kernels_->Linear(*stream, x, **prepared, y);
  for (int64_t t = 0; t < 9; ++t) {
    for (int64_t n = 0; n < 70; ++n) {
      const float value = y.At(t * 70 + n);
      if (t == 2) {
        EXPECT_TRUE(std::isnan(value));
      } else if (t == 4) {
        EXPECT_FALSE(std::isfinite(value));
      } else if (t == 6) {
        EXPECT_NEAR(value, 0, 1e-37);
      } else {
        EXPECT_TRUE(std::isfinite(value));
      }
    }
  }
}

TEST_P(LinearTest, BadWeightsAreRefused) {
  const Tensor ints(DType::kI32, {4, 4}), data(DType::kF8E4M3, {256, 256}),
      scales(DType::kF32, {1, 2});
  EXPECT_EQ(kernels_->PrepareLinear({ints, {}, 0, 0}, {}).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(kernels_->PrepareLinear({data, scales, 128, 128}, {}).status().code(),
            absl::StatusCode::kInvalidArgument);
  LinearOptions fp8;
  fp8.fp8_activations = true;
  EXPECT_EQ(kernels_->PrepareLinear({Tensor(DType::kBF16, {4, 4}), {}, 0, 0}, fp8).status().code(),
            absl::StatusCode::kInvalidArgument);
}

INSTANTIATE_TEST_SUITE_P(Cpu, LinearTest, ::testing::ValuesIn(testing::Backends()),
                         testing::BackendName);

}  // namespace
}  // namespace shoal
