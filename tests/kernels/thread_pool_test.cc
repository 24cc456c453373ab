// SPDX-License-Identifier: Apache-2.0
// Shows that the CPU backend's parallel loops run every item exactly once, with more threads than
// cores and sleeps in between, and that once scratch is reserved an operation allocates nothing and
// takes no lock.
#include "engine/device/cpu/thread_pool.h"

#include <gtest/gtest.h>

#include <chrono>

#include "tests/kernels/backends.h"
#include "tests/property/token_path_counter.h"

namespace shoal {
namespace {

using testing::Tensor;

TEST(ThreadPoolTest, RunsEveryItemOnce) {
  for (const int threads : {1, 2, 3, 8}) {
    cpu::ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    std::mt19937 random{37};
    for (int loop = 0; loop < 2000; ++loop) {
      const int64_t items = static_cast<int64_t>(random() % 50),
                    grain = 1 + static_cast<int64_t>(random() % 5);
      std::vector<std::atomic<int>> runs(items);
      std::atomic<int> wrong{0};
      pool.For(items, grain, [&](int64_t begin, int64_t end, int thread) {
        if (begin >= end || end > items || thread < 0 || thread >= threads) ++wrong;
        for (int64_t i = begin; i < end; ++i) ++runs[i];
      });
      ASSERT_EQ(wrong, 0);
      for (const std::atomic<int>& count : runs) ASSERT_EQ(count, 1);
    }
  }
}

TEST(ThreadPoolTest, SleepingHelpersWake) {
  cpu::ThreadPool pool(2);
  for (int loop = 0; loop < 20; ++loop) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    // The caller's half waits for the helper's, so this ends only if the helper comes.
    std::atomic<int> arrived{0};
    pool.For(2, 1, [&](int64_t, int64_t, int) {
      ++arrived;
      while (arrived < 2) std::this_thread::yield();
    });
    ASSERT_EQ(arrived, 2);
  }
}

TEST(ThreadPoolTest, ChunksMayBeMany) {
  cpu::ThreadPool pool(2);
  std::atomic<int64_t> sum{0};
  const int64_t items = int64_t{1} << 26;  // more than there are chunk numbers
  pool.For(items, 1, [&](int64_t begin, int64_t end, int) { sum += end - begin; });
  EXPECT_EQ(sum, items);
}

TEST(ThreadPoolTest, SteadyOperationsAllocateAndLockNothing) {
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
