// SPDX-License-Identifier: Apache-2.0
// Shows that the instruction sets of this machine agree bit for bit where they promise to: products
// with bf16 and E4M3 weights, attention, exponentials. (vdpbf16ps is two fused multiply-adds, odd
// element first; the others do the same. Sums with f32 weights differ: only some machines have a
// fused multiply-add.) Workers that differ in instruction set are refused all the same, by name;
// this test is about there being one arithmetic to understand.
#include <gtest/gtest.h>

#include "tests/kernels/backends.h"

namespace shoal {
namespace {

using testing::Tensor;
using testing::Weight;

class InstructionSetsTest : public ::testing::Test {
 protected:
  // run(kernels) on every instruction set gives the same bits.
  template <typename Run>
  void ExpectSame(const Run& run) {
    const std::vector<testing::Backend> backends = testing::Backends();
    std::string want;
    for (const testing::Backend& backend : backends) {
      const auto kernels = backend.Make(2);
      const Tensor y = run(*kernels);
      const std::string bits = y.Bits(0, y.view().elements());
      if (want.empty()) want = bits;
      EXPECT_EQ(bits == want, true) << backend.name << " differs from " << backends[0].name;
    }
  }
  std::mt19937 random_{29};
  std::unique_ptr<Stream> stream_ = std::make_unique<Stream>();
};

TEST_F(InstructionSetsTest, NamesTellThemApart) {
  for (const testing::Backend& backend : testing::Backends()) {
    EXPECT_EQ(backend.Make(1)->numerics(), "cpu " + backend.name);
  }
  EXPECT_EQ(testing::Backends().back().name, "portable");
}

TEST_F(InstructionSetsTest, Products) {
  for (const DType dtype : {DType::kBF16, DType::kF8E4M3}) {
    const Weight weight = testing::RandomWeight(random_, dtype, 200, 1030, 0.05f);
    const Tensor x = testing::Random(random_, DType::kF32, {14, 1030});
    ExpectSame([&](Kernels& kernels) {
      const Tensor y(DType::kF32, {14, 200});
      kernels.Linear(*stream_, x, *kernels.PrepareLinear(weight.quant, {}).value(), y);
      return y;
    });
  }
}

TEST_F(InstructionSetsTest, OfficialFp8Activations) {
  const Weight weight = testing::RandomWeight(random_, DType::kF8E4M3, 200, 1030, 0.05f);
  Tensor x = testing::Random(random_, DType::kF32, {14, 1030});
  for (int64_t i = 0; i < 1030; ++i)
    x.Set(i, 1e-7f * static_cast<float>(i));  // below the floor of scales
  for (const bool ue8m0 : {false, true}) {
    ExpectSame([&](Kernels& kernels) {
      const Tensor y(DType::kF32, {14, 200});
      kernels.Linear(*stream_, x, *kernels.PrepareLinear(weight.quant, {true, ue8m0}).value(), y);
      return y;
    });
  }
}

TEST_F(InstructionSetsTest, Attention) {
  const Tensor q = testing::Random(random_, DType::kBF16, {3, 20, 80});
  const Tensor pool = testing::Random(random_, DType::kBF16, {768, 80});
  std::vector<BlockId> table;
  for (int b = 0; b < 12; ++b) table.emplace_back(b);
  const std::vector<AttendSequence> sequences = {{0, 2, 700, table}, {2, 1, 33, table}};
  ExpectSame([&](Kernels& kernels) {
    const Tensor out(DType::kBF16, {3, 20, 64});
    kernels.MlaAttend(*stream_, {q, pool, 64, sequences, 0.3f, out});
    return out;
  });
}

TEST_F(InstructionSetsTest, Exponentials) {
  RouterConfig config;
  config.n_routed_experts = 1000;
  config.num_experts_per_tok = 1000;
  config.topk_method = TopkMethod::kGreedy;
  for (const ScoringFunc scoring : {ScoringFunc::kSigmoid, ScoringFunc::kSoftmax}) {
    config.scoring_func = scoring;
    const Tensor logits = testing::Random(random_, DType::kF32, {5, 1000}, 30.0f);
    ExpectSame([&](Kernels& kernels) {
      const Tensor experts(DType::kI32, {5, 1000}), weights(DType::kF32, {5, 1000});
      kernels.Route(*stream_, config, logits, {}, experts, weights);
      return weights;
    });
  }
}

}  // namespace
}  // namespace shoal
