// SPDX-License-Identifier: Apache-2.0
// Shows that an epoch without some ranks computes the same bits: ranks drop out and come back, in any order, their experts'
// other holders take over, and every logit is what one rank alone computes. And that a missing contribution is never
// summed as zero: under a placement that still names an absent holder, whoever needs it gets an error, never a number.
#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "comm/fabric.h"
#include "engine/config/read_model_config.h"
#include "engine/device/kernels.h"
#include "engine/model/model.h"
#include "engine/parallel/local.h"
#include "gtest/gtest.h"

namespace shoal {
namespace {

constexpr int kWorld = 4;
constexpr int kMaxRows = 64;
constexpr int kBlockTokens = 16;

using Rows = std::vector<float>;  // [T, V]

struct Outcome {
  absl::Status status;
  std::vector<Rows> logits;  // by prompt; empty where another rank owns it
};

class AbsentRanks : public ::testing::Test {
 protected:
  AbsentRanks() : model_(absl::StrCat(SHOAL_SOURCE_DIR, "/tests/golden/models/v3")), config_(*ReadModelConfig(model_)) {
    std::mt19937 random(5);
    for (int length : {1, 7, 16, 33, 50}) {
      auto& prompt = prompts_.emplace_back(length);
      for (int32_t& token : prompt) token = static_cast<int32_t>(random() % config_.vocab_size);
    }
    std::vector<std::vector<std::vector<RankId>>> holders;
    for (int experts : config_.RoutedExperts()) {
      auto& layer = holders.emplace_back(experts);
      for (int e = 0; e < experts; ++e) {
        const int first = static_cast<int>(random() % kWorld);
        const int second = (first + 1 + static_cast<int>(random() % (kWorld - 1))) % kWorld;
        layer[e] = {RankId(std::min(first, second)), RankId(std::max(first, second))};
      }
    }
    placement_ = *ExpertPlacement::Create(kWorld, holders);
  }

  ModelOptions Options(RankId rank) const {
    ModelOptions options;
    options.rank = rank;
    options.max_batch_rows = options.max_logit_rows = kMaxRows;
    options.block_tokens = kBlockTokens;
    options.cache_blocks = kMaxRows / kBlockTokens;
    return options;
  }

  // The logits of one prompt, computed whole in a step of its own.
  absl::StatusOr<Rows> Compute(Model& model, const StepTag& tag, const std::vector<int32_t>& prompt) const {
    Batch batch;
    std::vector<BlockId> table;
    for (int b = 0; b < kMaxRows / kBlockTokens; ++b) table.push_back(BlockId(b));
    const int32_t rows = static_cast<int32_t>(prompt.size());
    if (rows > 0) batch.sequences.push_back({0, rows, 0, table});
    batch.tokens = prompt;
    for (int32_t row = 0; row < rows; ++row) batch.logit_rows.push_back(row);
    Rows logits(static_cast<size_t>(rows) * config_.vocab_size);
    const absl::Status status =
        model.Forward(tag, batch, TensorView(logits.data(), DType::kF32, {rows, config_.vocab_size}));
    if (!status.ok()) return status;
    return logits;
  }

  std::vector<Rows> Alone() {
    auto kernels = *CreateKernels("reference", {.threads = 1});
    LocalExchange exchange(Model::MaxMessageBytes(config_, *kernels, kMaxRows));
    auto model = *Model::Load(model_, config_, *ExpertPlacement::Contiguous(1, config_.RoutedExperts()),
                              Options(RankId(0)), *kernels, exchange);
    std::vector<Rows> logits;
    for (const auto& prompt : prompts_) {
      logits.push_back(*Compute(*model, {Epoch(1), StepId(static_cast<int64_t>(logits.size()))}, prompt));
    }
    return logits;
  }

  // Every rank loads its share once, then lives through the epochs; in each, the present ranks compute all prompts, one
  // step for each, owned in turn. `place` gives the placement of an epoch. outcomes[epoch][rank].
  std::vector<std::vector<Outcome>> Live(const std::vector<std::vector<RankId>>& absent,
                                         const std::function<ExpertPlacement(const std::vector<RankId>&)>& place) {
    std::vector<std::unique_ptr<Kernels>> kernels;
    std::vector<std::unique_ptr<Fabric>> fabrics;
    std::vector<std::string> endpoints;
    for (int rank = 0; rank < kWorld; ++rank) {
      kernels.push_back(*CreateKernels("reference", {.threads = 1}));
      FabricOptions options;
      options.transport = "inprocess";
      options.cluster = "absent-ranks";
      options.max_message_bytes = Model::MaxMessageBytes(config_, *kernels[0], kMaxRows);
      fabrics.push_back(*Fabric::Create(options));
      endpoints.push_back(fabrics.back()->endpoint());
    }
    std::vector<std::vector<Outcome>> outcomes(absent.size(), std::vector<Outcome>(kWorld));
    std::vector<std::unique_ptr<Model>> models(kWorld);
    for (size_t e = 0; e < absent.size(); ++e) {
      std::vector<std::string> roster = endpoints;
      for (RankId rank : absent[e]) roster[rank.value()].clear();
      std::vector<std::thread> threads;
      for (int rank = 0; rank < kWorld; ++rank) {
        if (roster[rank].empty()) continue;
        threads.emplace_back([&, e, rank, roster] {
          outcomes[e][rank] = LiveOneEpoch(Epoch(static_cast<int64_t>(e) + 1), RankId(rank), roster, place(absent[e]),
                                           *fabrics[rank], *kernels[rank], models[rank]);
        });
      }
      for (std::thread& thread : threads) thread.join();
    }
    models.clear();
    return outcomes;
  }

  Outcome LiveOneEpoch(Epoch epoch, RankId rank, const std::vector<std::string>& roster,
                       const ExpertPlacement& placement, Fabric& fabric, Kernels& kernels,
                       std::unique_ptr<Model>& model) {
    Outcome outcome;
    outcome.logits.resize(prompts_.size());
    const absl::Time deadline = absl::Now() + absl::Seconds(60);
    absl::StatusOr<Exchange*> exchange = fabric.Connect(epoch, rank, roster, deadline);
    outcome.status = exchange.status();
    if (!exchange.ok()) return outcome;
    connected_[rank.value()] = *exchange;
    if (model == nullptr) {
      auto loaded = Model::Load(model_, config_, placement_, Options(rank), kernels, **exchange);
      outcome.status = loaded.status();
      if (!loaded.ok()) return outcome;
      model = *std::move(loaded);
    }
    outcome.status = model->InstallPlacement(placement, {});
    std::vector<int> present;
    for (int r = 0; r < kWorld; ++r) {
      if (!roster[r].empty()) present.push_back(r);
    }
    for (size_t p = 0; p < prompts_.size() && outcome.status.ok(); ++p) {
      const bool mine = present[(p + static_cast<size_t>(epoch.value())) % present.size()] == rank.value();
      const StepTag tag{epoch, StepId(static_cast<int64_t>(p)), deadline};
      absl::StatusOr<Rows> rows = Compute(*model, tag, mine ? prompts_[p] : std::vector<int32_t>());
      outcome.status = rows.status();
      if (rows.ok() && mine) outcome.logits[p] = *std::move(rows);
    }
    if (outcome.status.ok()) return outcome;
    for (auto& other : connected_) {  // they would wait for this one until their deadline
      if (other != nullptr) other.load()->Cancel();
    }
    return outcome;
  }

  const std::string model_;
  const ModelConfig config_;
  std::vector<std::vector<int32_t>> prompts_;
  ExpertPlacement placement_;
  std::array<std::atomic<Exchange*>, kWorld> connected_{};
};

bool SameBits(const Rows& a, const Rows& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

TEST_F(AbsentRanks, TheSameBitsWhoeverIsThere) {
  const std::vector<Rows> wanted = Alone();
  std::vector<std::vector<RankId>> absent = {{}, {RankId(2)}, {}, {RankId(0)}, {RankId(3)}, {RankId(1)}, {}};
  const auto outcomes =
      Live(absent, [&](const std::vector<RankId>& gone) { return *placement_.Without(gone); });
  for (size_t e = 0; e < absent.size(); ++e) {
    std::vector<bool> computed(prompts_.size());
    for (int rank = 0; rank < kWorld; ++rank) {
      ASSERT_EQ(outcomes[e][rank].status, absl::OkStatus()) << "epoch " << e << " rank " << rank;
      for (size_t p = 0; p < outcomes[e][rank].logits.size(); ++p) {
        if (outcomes[e][rank].logits[p].empty()) continue;
        EXPECT_TRUE(SameBits(outcomes[e][rank].logits[p], wanted[p])) << "epoch " << e << " prompt " << p;
        computed[p] = true;
      }
    }
    EXPECT_EQ(computed, std::vector<bool>(prompts_.size(), true));
  }
}

// The full placement in an epoch without rank 2: some rows have nobody to go to.
TEST_F(AbsentRanks, AMissingContributionIsAnErrorAndNoZero) {
  const std::vector<Rows> wanted = Alone();
  const auto outcomes = Live({{}, {RankId(2)}}, [&](const std::vector<RankId>&) { return placement_; });
  int failed = 0;
  for (const Outcome& outcome : outcomes[1]) {
    if (absl::IsDataLoss(outcome.status)) ++failed;
    for (size_t p = 0; p < outcome.logits.size(); ++p) {
      EXPECT_TRUE(outcome.logits[p].empty() || SameBits(outcome.logits[p], wanted[p])) << "prompt " << p;
    }
  }
  EXPECT_GT(failed, 0);
}

}  // namespace
}  // namespace shoal
