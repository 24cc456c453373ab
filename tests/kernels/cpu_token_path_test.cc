// SPDX-License-Identifier: Apache-2.0
// Shows that once scratch is reserved an operation of the CPU backend allocates nothing and takes
// no lock, on any thread: counted in fifty steps of the three operations that use the pool most.
#include <gtest/gtest.h>

#include "tests/kernels/backends.h"
#include "tests/property/token_path_counter.h"

namespace shoal {
namespace {

using testing::Tensor;

TEST(CpuTokenPathTest, SteadyOperationsAllocateAndLockNothing) {
  std::mt19937 random{41};
  BackendOptions options;
  options.threads = 2;
  const auto kernels = CreateKernels("cpu", options).value();
  const auto weight = testing::RandomWeight(random, DType::kBF16, 512, 512, 0.05f);
  FfnWeights expert;
  for (auto* part : {&expert.gate, &expert.up, &expert.down})
    *part = kernels->PrepareLinear(weight.quant, {}).value();
  const std::vector<const FfnWeights*> experts = {&expert};
  const std::vector<int32_t> offsets = {0, 3};
  const Tensor x = testing::Random(random, DType::kF32, {3, 512}), y(DType::kF32, {3, 512});
  const Tensor q = testing::Random(random, DType::kBF16, {3, 16, 80}), u(DType::kBF16, {3, 16, 64});
  const Tensor pool = testing::Random(random, DType::kBF16, {1024, 80});
  std::vector<BlockId> table;
  for (int b = 0; b < 16; ++b) table.emplace_back(b);
  const std::vector<AttendSequence> sequences = {{0, 1, 900, table}, {1, 2, 10, table}};

  ModelConfig config;
  config.hidden_size = 512;
  LayerConfig layer;
  MlaConfig mla;
  mla.num_attention_heads = 16;
  mla.kv_lora_rank = 64;
  mla.qk_rope_head_dim = 16;
  layer.attention = mla;
  layer.ffn = DenseFfnConfig{512};
  config.layers = {layer};
  ASSERT_TRUE(kernels->Reserve(3, config).ok());
  auto stream = kernels->NewStream();

  ArmTokenPathCounter();
  for (int step = 0; step < 50; ++step) {
    kernels->Linear(*stream, x, *expert.gate, y);
    kernels->GroupedFfn(*stream, {x, experts, offsets, y});
    kernels->MlaAttend(*stream, {q, pool, 64, sequences, 0.2f, u});
  }
  const TokenPathCounts counts = DisarmTokenPathCounter();
  EXPECT_EQ(counts.allocations, 0);
  EXPECT_EQ(counts.locks, 0);
}

}  // namespace
}  // namespace shoal
