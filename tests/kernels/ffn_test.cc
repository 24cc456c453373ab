// SPDX-License-Identifier: Apache-2.0
// Shows that the grouped FFN is the reference's, expert by expert, for empty and crowded experts,
// for more rows than its scratch holds, and with the official FP8 activations.
//
// Tolerances: the hidden row h is rounded to bf16 (2^-8 of each element), so the output may differ
// by 2^-8 |h| |w_down|, plus the errors of both sums. |h| of the reference is taken as 1.1 times
// that of rounded inputs.
#include <gtest/gtest.h>

#include <numeric>

#include "tests/kernels/backends.h"

namespace shoal {
namespace {

using testing::Backend;
using testing::Tensor;
using testing::Weight;

struct Expert {
  Weight gate, up, down;
};

FfnWeights Prepare(Kernels& kernels, const Expert& expert, const LinearOptions& options) {
  FfnWeights weights;
  weights.gate = kernels.PrepareLinear(expert.gate.quant, options).value();
  weights.up = kernels.PrepareLinear(expert.up.quant, options).value();
  weights.down = kernels.PrepareLinear(expert.down.quant, options).value();
  return weights;
}

float SiluProduct(float gate, float up) { return gate / (1 + std::exp(-gate)) * up; }

class FfnTest : public ::testing::TestWithParam<Backend> {
 protected:
  void Check(int64_t hidden_size, int64_t width, const std::vector<int>& rows_of, DType dtype,
             DType x_dtype, DType y_dtype, const LinearOptions& options) {
    SCOPED_TRACE(::testing::Message() << hidden_size << "x" << width << " " << DTypeName(dtype)
                                      << " to " << DTypeName(y_dtype));
    std::vector<Expert> experts;
    std::vector<FfnWeights> weights, reference_weights;
    std::vector<const FfnWeights*> pointers, reference_pointers;
    std::vector<int32_t> offsets = {0};
    for (const int rows : rows_of) {
      const float deviation = 1 / std::sqrt(static_cast<float>(hidden_size));
      experts.push_back({testing::RandomWeight(random_, dtype, width, hidden_size, deviation),
                         testing::RandomWeight(random_, dtype, width, hidden_size, deviation),
                         testing::RandomWeight(random_, dtype, hidden_size, width, deviation)});
      weights.push_back(Prepare(*kernels_, experts.back(), options));
      reference_weights.push_back(Prepare(*reference_, experts.back(), options));
      offsets.push_back(offsets.back() + rows);
    }
    for (size_t e = 0; e < experts.size(); ++e) {
      pointers.push_back(&weights[e]);
      reference_pointers.push_back(&reference_weights[e]);
    }
    const int64_t n = offsets.back();
    const Tensor rounded = testing::Random(random_, DType::kBF16, {n, hidden_size});
    const Tensor wide = testing::As(rounded, DType::kF32);
    const Tensor x = x_dtype == DType::kBF16 ? rounded : wide;
    const Tensor y(y_dtype, {n, hidden_size}), want(DType::kF32, {n, hidden_size});
    auto stream = kernels_->NewStream();
    kernels_->GroupedFfn(*stream, {x, pointers, offsets, y});
    reference_->GroupedFfn(*stream, {wide, reference_pointers, offsets, want});

    for (size_t e = 0; e < experts.size(); ++e) {
      Tensor gate(DType::kF32, {width, hidden_size}), up(DType::kF32, {width, hidden_size}),
          down(DType::kF32, {hidden_size, width});
      Dequantise(experts[e].gate.quant, gate);
      Dequantise(experts[e].up.quant, up);
      Dequantise(experts[e].down.quant, down);
      for (int64_t t = offsets[e]; t < offsets[e + 1]; ++t) {
        double square = 0;
        for (int64_t f = 0; f < width; ++f) {
          float g = 0, u = 0;
          for (int64_t k = 0; k < hidden_size; ++k) {
            g += rounded.At(t * hidden_size + k) * gate.At(f * hidden_size + k);
            u += rounded.At(t * hidden_size + k) * up.At(f * hidden_size + k);
          }
          square += std::pow(SiluProduct(g, u), 2);
        }
        const float norm_h = 1.1f * static_cast<float>(std::sqrt(square));
        // With FP8 activations a hidden value may round to the neighbouring code: 2^-4 of the
        // largest it can be.
        const float rounding = options.fp8_activations ? 0x1p-4f : 0x1p-8f;
        for (int64_t d = 0; d < hidden_size; ++d) {
          const float expected = want.At(t * hidden_size + d);
          const float norm_w = testing::Norm(down, d * width, width);
          float tolerance = testing::SumTolerance(width, norm_h, norm_w) +
                            testing::SumTolerance(hidden_size, 1, 1) * norm_h * norm_w +
                            rounding * norm_h * norm_w;
          if (y_dtype == DType::kBF16) tolerance += testing::BF16Tolerance(expected);
          ASSERT_NEAR(y.At(t * hidden_size + d), expected, tolerance)
              << "row " << t << " column " << d;
        }
      }
    }
  }

  std::mt19937 random_{11};
  std::unique_ptr<Kernels> kernels_ = GetParam().Make(2);
  std::unique_ptr<Kernels> reference_ = testing::Reference();
};

TEST_P(FfnTest, Shapes) {
  Check(64, 96, {3, 0, 1, 7}, DType::kBF16, DType::kBF16, DType::kF32, {});
  Check(88, 36, {2, 5}, DType::kBF16, DType::kF32, DType::kBF16, {});
  Check(7, 5, {1, 1, 0}, DType::kBF16, DType::kF32, DType::kF32, {});
  Check(130, 67, {0, 20}, DType::kF32, DType::kF32, DType::kF32, {});
  Check(64, 66, {270}, DType::kBF16, DType::kF32, DType::kF32, {});
  Check(192, 160, {4, 9}, DType::kF8E4M3, DType::kBF16, DType::kF32, {});
  Check(320, 130, {3}, DType::kF8E4M3, DType::kF32, DType::kBF16, {});
}

TEST_P(FfnTest, OfficialFp8Activations) {
  LinearOptions options;
  options.fp8_activations = true;
  Check(192, 160, {4, 0, 9}, DType::kF8E4M3, DType::kF32, DType::kF32, options);
  options.ue8m0_scales = true;
  Check(256, 130, {3}, DType::kF8E4M3, DType::kF32, DType::kF32, options);
}

TEST_P(FfnTest, NothingToDoIsDone) {
  auto stream = kernels_->NewStream();
  const std::vector<int32_t> offsets = {0};
  kernels_->GroupedFfn(*stream,
                       {Tensor(DType::kBF16, {0, 8}), {}, offsets, Tensor(DType::kF32, {0, 8})});
  EXPECT_TRUE(stream->Finish().ok());
}

INSTANTIATE_TEST_SUITE_P(Cpu, FfnTest, ::testing::ValuesIn(testing::Backends()),
                         testing::BackendName);

}  // namespace
}  // namespace shoal
