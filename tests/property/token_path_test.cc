// SPDX-License-Identifier: Apache-2.0
// Shows that steady decode allocates nothing and takes no lock: two ranks of the bundled model,
// joined by shared memory, decode a batch of sequences each while every malloc and every mutex of
// the process is counted.
#include <barrier>
#include <memory>
#include <vector>

#include "deploy/shoal/local_unit.h"
#include "engine/cache/kv_cache.h"
#include "engine/config/read_model_config.h"
#include "engine/sample/sampler.h"
#include "gtest/gtest.h"
#include "tests/property/token_path_counter.h"

namespace shoal {
namespace {

constexpr int kSequences = 3;
constexpr int kPrompt = 20;
constexpr int kWarmUp = 8;  // scratch that grows once may do so here
constexpr int kSteps = 64;  // crosses a block boundary
constexpr int kBlockTokens = 64;

TEST(TokenPathCounter, SeesAllocationsAndLocks) {
  absl::Mutex mutex;
  ArmTokenPathCounter();
  {
    absl::MutexLock lock(&mutex);
    volatile auto pointer = std::make_unique<int>(1).release();
    delete pointer;
  }
  const TokenPathCounts counts = DisarmTokenPathCounter();
  EXPECT_EQ(counts.allocations, 1);
  EXPECT_EQ(counts.locks, 1);
}

class TokenPath : public testing::TestWithParam<const char*> {};

TEST_P(TokenPath, SteadyDecodeAllocatesNothingAndTakesNoLock) {
  LocalUnitOptions options;
  options.model = SHOAL_SOURCE_DIR "/deploy/models/shoal-tiny";
  options.workers = 2;
  options.transport = "shm";
  options.backend = GetParam();
  options.threads = 4;
  options.options.max_batch_rows = kSequences * kPrompt;
  options.options.max_logit_rows = kSequences;
  options.options.block_tokens = kBlockTokens;
  const int blocks = BlocksForTokens(kPrompt + kWarmUp + kSteps + 1, kBlockTokens);
  options.options.cache_blocks = kSequences * blocks;
  const ModelConfig config = *ReadModelConfig(options.model);
  const auto unit = LocalUnit::Create(config, options);
  ASSERT_TRUE(unit.ok()) << unit.status();

  TokenPathCounts counts;
  std::barrier all(options.workers);
  const absl::Status status = (*unit)->Run([&](RankId rank, Model& model) -> absl::Status {
    std::vector<std::vector<BlockId>> tables(kSequences);
    std::vector<std::vector<int32_t>> tokens(kSequences);
    Batch batch;
    for (int s = 0; s < kSequences; ++s) {
      for (int b = 0; b < blocks; ++b) tables[s].push_back(BlockId(s * blocks + b));
      tokens[s].reserve(kPrompt + kWarmUp + kSteps + 1);
      for (int t = 0; t < kPrompt; ++t)
        tokens[s].push_back(3 + (rank.value() * 7 + s * 31 + t * 13) % 2000);
      batch.sequences.push_back({s * kPrompt, kPrompt, 0, tables[s]});
      batch.tokens.insert(batch.tokens.end(), tokens[s].begin(), tokens[s].end());
      batch.logit_rows.push_back((s + 1) * kPrompt - 1);
    }
    Sampler sampler(config.vocab_size, config.vocab_size);
    SamplingParams params;
    params.top_p = 0.9f;
    params.presence_penalty = 0.1f;
    std::vector<float> logits(kSequences * config.vocab_size);
    const TensorView view(logits.data(), DType::kF32, {kSequences, config.vocab_size});
    for (int step = 0; step <= kWarmUp + kSteps; ++step) {
      if (step == kWarmUp) {
        all.arrive_and_wait();
        if (rank == RankId(0)) ArmTokenPathCounter();
        all.arrive_and_wait();
      }
      absl::Status forward = model.Forward((*unit)->Tag(step), batch, view);
      if (!forward.ok()) return forward;
      batch.tokens.clear();
      for (int s = 0; s < kSequences; ++s) {
        auto next = sampler.Sample(
            absl::MakeConstSpan(logits).subspan(s * config.vocab_size, config.vocab_size), params,
            tokens[s], kPrompt);
        if (!next.ok()) return next.status();
        batch.sequences[s] = {s, 1, static_cast<int32_t>(tokens[s].size()), tables[s]};
        batch.logit_rows[s] = s;
        batch.tokens.push_back(*next);
        tokens[s].push_back(*next);
      }
    }
    all.arrive_and_wait();
    if (rank == RankId(0)) counts = DisarmTokenPathCounter();
    all.arrive_and_wait();
    return absl::OkStatus();
  });
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(counts.allocations, 0);
  EXPECT_EQ(counts.locks, 0);
}

INSTANTIATE_TEST_SUITE_P(Backends, TokenPath, testing::Values("reference", "cpu"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace shoal
