// SPDX-License-Identifier: Apache-2.0
// Shows that the operations on single rows are the reference's: exactly where each element is one
// or two roundings (embed, add, convert, gather, combine), within a few roundings where there is a
// sum or an exponential (norm, router).
#include <gtest/gtest.h>

#include <set>

#include "tests/kernels/backends.h"

namespace shoal {
namespace {

using testing::Backend;
using testing::Tensor;

class RowsTest : public ::testing::TestWithParam<Backend> {
 protected:
  std::mt19937 random_{17};
  std::unique_ptr<Kernels> kernels_ = GetParam().Make(3);
  std::unique_ptr<Kernels> reference_ = testing::Reference();
  std::unique_ptr<Stream> stream_ = kernels_->NewStream();
};

TEST_P(RowsTest, EmbedIsExact) {
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    for (const int64_t width : {1, 15, 16, 88, 2048}) {
      const Tensor table = testing::Random(random_, dtype, {10, width});
      const Tensor x(DType::kF32, {4, width});
      const std::vector<int32_t> tokens = {9, 0, 9, 3};
      kernels_->Embed(*stream_, tokens, table, x);
      for (int64_t i = 0; i < 4 * width; ++i) {
        ASSERT_EQ(x.At(i), table.At(tokens[i / width] * width + i % width))
            << DTypeName(dtype) << " " << i;
      }
    }
  }
}

TEST_P(RowsTest, AddAndConvertAreExact) {
  for (const int64_t n : {1, 17, 100, 5000, 20000}) {
    Tensor x = testing::Random(random_, DType::kF32, {2, n});
    const Tensor y = testing::Random(random_, DType::kF32, {2, n});
    const Tensor before = testing::As(x, DType::kF32);
    kernels_->Add(*stream_, x, y);
    for (int64_t i = 0; i < 2 * n; ++i) ASSERT_EQ(x.At(i), before.At(i) + y.At(i));
    x.Set(0, NAN);
    x.Set(n, 1e-41f);
    x.Set(2 * n - 1, -INFINITY);
    const Tensor rounded(DType::kBF16, {2, n}), wide(DType::kF32, {2, n});
    kernels_->Convert(*stream_, x, rounded);
    kernels_->Convert(*stream_, rounded, wide);
    for (int64_t i = 0; i < 2 * n; ++i) {
      ASSERT_EQ(rounded.view().as<uint16_t>()[i], FloatToBF16(x.At(i))) << x.At(i);
      if (i > 0) {
        ASSERT_EQ(wide.At(i), rounded.At(i));
      }
    }
  }
}

TEST_P(RowsTest, RoundsTiesToEven) {
  // Every upper half with the lower halves around a tie.
  const Tensor x(DType::kF32, {65536, 4}), y(DType::kBF16, {65536, 4});
  constexpr uint32_t kLow[] = {0x7fff, 0x8000, 0x8001, 0xffff};
  for (uint32_t i = 0; i < 65536 * 4; ++i) x.view().as<uint32_t>()[i] = i / 4 << 16 | kLow[i % 4];
  kernels_->Convert(*stream_, x, y);
  for (int64_t i = 0; i < 65536 * 4; ++i) {
    if (std::isnan(x.At(i))) {
      ASSERT_TRUE(std::isnan(y.At(i)));
    } else {
      ASSERT_EQ(y.view().as<uint16_t>()[i], FloatToBF16(x.At(i))) << x.At(i);
    }
  }
}

TEST_P(RowsTest, GatherIsExact) {
  const Tensor src = testing::Random(random_, DType::kBF16, {7, 333});
  const std::vector<int32_t> rows = {6, 6, 0, 3, 1};
  const Tensor dst(DType::kBF16, {5, 333});
  kernels_->GatherRows(*stream_, src, rows, dst.view().data());
  for (int64_t i = 0; i < 5; ++i) ASSERT_EQ(dst.Bits(i * 333, 333), src.Bits(rows[i] * 333, 333));
}

TEST_P(RowsTest, RmsNorm) {
  for (const int64_t n : {1, 16, 40, 88, 130, 2048, 7168}) {
    const Tensor x = testing::Random(random_, DType::kF32, {3, n}, 3.0f),
                 w = testing::Random(random_, DType::kF32, {n});
    const Tensor y(DType::kF32, {3, n}), y16(DType::kBF16, {3, n}), want(DType::kF32, {3, n});
    kernels_->RmsNorm(*stream_, x, w, 1e-6f, y);
    kernels_->RmsNorm(*stream_, x, w, 1e-6f, y16);
    reference_->RmsNorm(*stream_, x, w, 1e-6f, want);
    for (int64_t i = 0; i < 3 * n; ++i) {
      // All squares are positive: the sum of n has relative error sqrt(n) eps at most, its root
      // half of it.
      const float tolerance =
          8 * std::sqrt(static_cast<float>(n)) * 0x1p-24f * std::fabs(want.At(i)) + 1e-30f;
      ASSERT_NEAR(y.At(i), want.At(i), tolerance + 0x1p-22f * std::fabs(want.At(i)));
      ASSERT_EQ(y16.view().as<uint16_t>()[i], FloatToBF16(y.At(i)));
    }
  }
}

TEST_P(RowsTest, CombineIsExact) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int64_t width : {1, 88, 1024, 2500}) {
      for (const bool with_shared : {false, true}) {
        const int64_t rows = 3, chosen = 4;
        const Tensor sent = testing::Random(random_, dtype, {rows * chosen, width});
        const Tensor weights = testing::Random(random_, DType::kF32, {rows, chosen});
        const Tensor shared = testing::Random(random_, DType::kF32, {rows, width});
        const Tensor y(DType::kF32, {rows, width});
        std::vector<const void*> pointers;
        for (int64_t i = 0; i < rows * chosen; ++i)
          pointers.push_back(sent.view().Rows(rows * chosen - 1 - i, 1).data());
        kernels_->Combine(
            *stream_, {pointers, dtype, weights, with_shared ? shared.view() : TensorView(), y});
        for (int64_t i = 0; i < rows * width; ++i) {
          float sum = with_shared ? shared.At(i) : 0.0f;
          for (int64_t k = 0; k < chosen; ++k) {
            const int64_t row = rows * chosen - 1 - (i / width * chosen + k);
            sum = sum + weights.At(i / width * chosen + k) * sent.At(row * width + i % width);
          }
          ASSERT_EQ(y.At(i), sum);
        }
      }
    }
  }
}

TEST_P(RowsTest, RouterLogits) {
  for (const DType dtype : {DType::kBF16, DType::kF32, DType::kF16}) {
    for (const auto& [rows, experts, n] :
         {std::tuple{1, 64, 2048}, {7, 10, 88}, {33, 5, 17}, {2, 1, 3}, {5, 256, 700}}) {
      const Tensor x = testing::Random(random_, DType::kF32, {rows, n});
      const Tensor w = testing::Random(random_, dtype, {experts, n}, 0.1f);
      const Tensor logits(DType::kF32, {rows, experts}), want(DType::kF32, {rows, experts});
      kernels_->RouterLogits(*stream_, x, w, logits);
      reference_->RouterLogits(*stream_, x, w, want);
      for (int64_t i = 0; i < static_cast<int64_t>(rows) * experts; ++i) {
        ASSERT_NEAR(logits.At(i), want.At(i),
                    testing::SumTolerance(n, testing::Norm(x, i / experts * n, n),
                                          testing::Norm(w, i % experts * n, n)));
      }
    }
  }
}

RouterConfig MakeRouter(ScoringFunc scoring, TopkMethod method, int experts, int chosen, int groups,
                        int kept, bool normalise) {
  RouterConfig config;
  config.scoring_func = scoring;
  config.topk_method = method;
  config.n_routed_experts = experts;
  config.num_experts_per_tok = chosen;
  config.n_group = groups;
  config.topk_group = kept;
  config.norm_topk_prob = normalise;
  config.routed_scaling_factor = 2.5f;
  return config;
}

TEST_P(RowsTest, RouteChoosesAsTheReference) {
  const RouterConfig configs[] = {
      MakeRouter(ScoringFunc::kSoftmax, TopkMethod::kGreedy, 64, 6, 1, 1, false),
      MakeRouter(ScoringFunc::kSoftmax, TopkMethod::kGroupLimitedGreedy, 160, 6, 8, 3, false),
      MakeRouter(ScoringFunc::kSigmoid, TopkMethod::kNoAuxTc, 256, 8, 8, 4, true),
      MakeRouter(ScoringFunc::kSigmoid, TopkMethod::kNoAuxTc, 10, 3, 1, 1, true),
      MakeRouter(ScoringFunc::kSigmoid, TopkMethod::kNoAuxTc, 16, 16, 4, 4, true),
  };
  for (const RouterConfig& config : configs) {
    const int64_t rows = 40, n = config.n_routed_experts, k = config.num_experts_per_tok;
    const bool biased = config.topk_method == TopkMethod::kNoAuxTc;
    const Tensor logits = testing::Random(random_, DType::kF32, {rows, n}, 2.0f);
    const Tensor bias = testing::Random(random_, DType::kF32, {n}, 0.1f);
    const Tensor experts(DType::kI32, {rows, k}), want(DType::kI32, {rows, k});
    const Tensor weights(DType::kF32, {rows, k}), want_weights(DType::kF32, {rows, k});
    const TensorView bias_view = biased ? bias.view() : TensorView();
    kernels_->Route(*stream_, config, logits, bias_view, experts, weights);
    reference_->Route(*stream_, config, logits, bias_view, want, want_weights);
    for (int64_t i = 0; i < rows * k; ++i) {
      ASSERT_EQ(experts.view().as<int32_t>()[i], want.view().as<int32_t>()[i]) << "row " << i / k;
      // exp is within 3e-7, sums of up to 256 positive terms within 2^-20.
      ASSERT_NEAR(weights.At(i), want_weights.At(i), 3e-6f * want_weights.At(i));
    }
  }
}

TEST_P(RowsTest, RouteBreaksTiesToTheLowerExpert) {
  const RouterConfig config =
      MakeRouter(ScoringFunc::kSigmoid, TopkMethod::kNoAuxTc, 8, 3, 4, 2, true);
  const Tensor logits(DType::kF32, {1, 8}), bias(DType::kF32, {8}), experts(DType::kI32, {1, 3}),
      weights(DType::kF32, {1, 3});
  kernels_->Route(*stream_, config, logits, bias, experts, weights);
  for (int32_t k = 0; k < 3; ++k) EXPECT_EQ(experts.view().as<int32_t>()[k], k);
}

// A broken row must not choose an expert twice or one that is not there: its slots are used as
// indices.
TEST_P(RowsTest, RouteOfNaNStillChoosesExperts) {
  for (const TopkMethod method : {TopkMethod::kGreedy, TopkMethod::kNoAuxTc}) {
    const RouterConfig config = MakeRouter(ScoringFunc::kSigmoid, method, 16, 4, 4, 2, true);
    Tensor logits = testing::Random(random_, DType::kF32, {3, 16});
    for (int64_t e = 0; e < 16; ++e) logits.Set(16 + e, NAN);
    logits.Set(2 * 16 + 5, NAN);
    const Tensor experts(DType::kI32, {3, 4}), weights(DType::kF32, {3, 4});
    kernels_->Route(*stream_, config, logits, {}, experts, weights);
    for (int64_t t = 0; t < 3; ++t) {
      const int32_t* row = experts.view().as<int32_t>() + t * 4;
      EXPECT_EQ(std::set<int32_t>(row, row + 4).size(), 4u);
      for (int64_t k = 0; k < 4; ++k) EXPECT_TRUE(row[k] >= 0 && row[k] < 16);
    }
    EXPECT_EQ(std::count(experts.view().as<int32_t>() + 8, experts.view().as<int32_t>() + 12, 5),
              0);
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, RowsTest, ::testing::ValuesIn(testing::Backends()),
                         testing::BackendName);

}  // namespace
}  // namespace shoal
