// SPDX-License-Identifier: Apache-2.0
// Shows that plans, which are changes, become the right batches: prefill in chunks, decoding that
// feeds itself, sequences that stop, leave and return, and sequences that outlive an epoch and go
// back to what was committed; that a plan which contradicts itself is an error and no crash; and
// that steady decode allocates nothing. The model is a fake whose logits
// say which row asked for them.
#include <atomic>
#include <cstdlib>
#include <functional>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "engine/parallel/blamed_peers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/cluster.pb.h"
#include "worker/step_runner.h"

namespace {
std::atomic<int64_t> allocations = 0;
}  // namespace

// Not inlined: g++ 12 would take malloc and free for mismatched partners of new and delete.
__attribute__((noinline)) void* operator new(std::size_t bytes) {
  ++allocations;
  if (void* memory = std::malloc(bytes)) return memory;
  throw std::bad_alloc();
}
__attribute__((noinline)) void operator delete(void* memory) noexcept { std::free(memory); }
__attribute__((noinline)) void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}

namespace shoal {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int kVocab = 100;
constexpr int kContext = 40;

// One sequence's part of a batch.
struct SeenRows {
  int32_t start = 0;
  std::vector<int32_t> tokens;
  std::vector<int32_t> blocks;

  bool operator==(const SeenRows&) const = default;
};
std::ostream& operator<<(std::ostream& os, const SeenRows& rows) {
  return os << "start " << rows.start << " tokens " << ::testing::PrintToString(rows.tokens)
            << " blocks " << ::testing::PrintToString(rows.blocks);
}

// The most probable successor of token t at position p is (t + p + 1) % kVocab, wherever the row
// stands.
int32_t Successor(int32_t token, int32_t position) { return (token + position + 1) % kVocab; }

class FakeModel final : public Model {
 public:
  FakeModel() {
    config_.vocab_size = kVocab;
    config_.max_position_embeddings = kContext;
  }
  const ModelConfig& config() const override { return config_; }
  absl::Span<const int64_t> expert_tokens() const override { return {}; }
  absl::Status Forward(const StepTag& tag, const Batch& batch, TensorView logits) override {
    last_tag = tag;
    if (record) {
      seen.clear();
      for (const AttendSequence& sequence : batch.sequences) {
        SeenRows rows;
        rows.start = sequence.start_position;
        for (int32_t i = 0; i < sequence.row_count; ++i)
          rows.tokens.push_back(batch.tokens[sequence.first_row + i]);
        for (BlockId block : sequence.block_table) rows.blocks.push_back(block.value());
        seen.push_back(std::move(rows));
      }
    }
    if (!result.ok()) return result;
    EXPECT_EQ(logits.dim(0), static_cast<int64_t>(batch.logit_rows.size()));
    for (size_t i = 0; i < batch.logit_rows.size(); ++i) {
      const int32_t row = batch.logit_rows[i];
      int32_t position = -1;
      for (const AttendSequence& sequence : batch.sequences) {
        if (row >= sequence.first_row && row < sequence.first_row + sequence.row_count) {
          position = sequence.start_position + row - sequence.first_row;
        }
      }
      float* out = logits.f32() + i * kVocab;
      for (int v = 0; v < kVocab; ++v) out[v] = 0;
      out[Successor(batch.tokens[row], position)] = 10;
    }
    return absl::OkStatus();
  }
  void SetLayerObserver(std::function<void(int, TensorView)>) override {}
  absl::Status InstallPlacement(const ExpertPlacement&, absl::Span<const int>) override {
    return absl::OkStatus();
  }
  int64_t weight_bytes() const override { return 0; }
  int64_t bytes_read() const override { return 0; }

  bool record = true;
  std::vector<SeenRows> seen;
  StepTag last_tag;
  absl::Status result;

 private:
  ModelConfig config_;
};

class StepRunnerTest : public ::testing::Test {
 protected:
  StepRunnerTest() {
    options_.max_batch_rows = 16;
    options_.max_logit_rows = 8;
    options_.block_tokens = 4;
    options_.cache_blocks = 32;
    runner_ = std::make_unique<StepRunner>(options_, model_, nullptr);
  }
  proto::StepPlan& Plan() {
    plan_.Clear();
    plan_.set_epoch(epoch_);
    plan_.set_step(++step_);
    plan_.set_timeout_us(1000000);
    return plan_;
  }
  void Enter(int64_t id, std::vector<int32_t> tokens, int32_t prompt_tokens) {
    proto::NewSequence& sequence = *plan_.add_new_sequences();
    sequence.set_id(id);
    sequence.mutable_tokens()->Add(tokens.begin(), tokens.end());
    sequence.set_prompt_tokens(prompt_tokens);
    proto::Sampling& sampling = *sequence.mutable_sampling();
    sampling.set_top_p(1);
    sampling.set_repetition_penalty(1);
    sampling.set_top_logprobs(-1);
  }
  proto::SequenceWork& Work(int64_t id, int32_t start, int32_t count, bool sample,
                            std::vector<int32_t> blocks) {
    proto::SequenceWork& work = *plan_.add_work();
    work.set_id(id);
    work.set_start(start);
    work.set_count(count);
    work.set_sample(sample);
    work.mutable_new_blocks()->Add(blocks.begin(), blocks.end());
    return work;
  }
  // Runs plan_ and returns "sequence:position=token" for every sampled token.
  std::vector<std::string> Run() {
    runner_->Run(plan_, done_);
    EXPECT_EQ(done_.status().code(), 0) << done_.status().message();
    std::vector<std::string> tokens;
    for (const proto::SampledToken& token : done_.tokens()) {
      tokens.push_back(std::to_string(token.sequence()) + ":" + std::to_string(token.position()) +
                       "=" + std::to_string(token.token()));
    }
    return tokens;
  }
  void Rewind(int64_t id, int32_t tokens, int32_t rows) {
    proto::Rewind& rewind = *plan_.add_rewind();
    rewind.set_id(id);
    rewind.set_tokens(tokens);
    rewind.set_rows(rows);
  }
  std::string RunFails() {
    runner_->Run(plan_, done_);
    EXPECT_EQ(done_.status().code(), static_cast<int>(absl::StatusCode::kInvalidArgument));
    EXPECT_EQ(done_.tokens_size(), 0);
    return done_.status().message();
  }

  StepRunnerOptions options_;
  FakeModel model_;
  std::unique_ptr<StepRunner> runner_;
  proto::StepPlan plan_;
  proto::StepDone done_;
  int64_t epoch_ = 3;
  int64_t step_ = 0;
};

TEST_F(StepRunnerTest, AnEmptyPlanIsStillAStep) {
  Plan();
  EXPECT_TRUE(Run().empty());
  EXPECT_TRUE(model_.seen.empty());
  EXPECT_EQ(model_.last_tag.epoch, Epoch(3));
  EXPECT_EQ(model_.last_tag.step, StepId(1));
  EXPECT_EQ(done_.epoch(), 3);
  EXPECT_EQ(done_.step(), 1);
}

TEST_F(StepRunnerTest, PrefillInChunksThenDecodingFeedsItself) {
  Plan();
  Enter(7, {10, 11, 12, 13, 14}, 5);
  Work(7, 0, 3, false, {5, 2});
  EXPECT_TRUE(Run().empty());
  EXPECT_THAT(model_.seen, ElementsAre(SeenRows{0, {10, 11, 12}, {5, 2}}));

  Plan();
  Work(7, 3, 2, true, {});
  EXPECT_THAT(Run(), ElementsAre("7:5=19"));  // 14 at position 4
  EXPECT_THAT(model_.seen, ElementsAre(SeenRows{3, {13, 14}, {5, 2}}));

  Plan();                                     // nothing is said: it goes on by itself
  EXPECT_THAT(Run(), ElementsAre("7:6=25"));  // 19 at position 5
  EXPECT_THAT(model_.seen, ElementsAre(SeenRows{5, {19}, {5, 2}}));
  Plan();
  EXPECT_THAT(Run(), ElementsAre("7:7=32"));

  Plan();  // a decode row that needs a block
  Plan();
  EXPECT_THAT(Run(), ElementsAre("7:8=40"));
  Plan();
  Work(7, 8, 1, true, {9});
  EXPECT_THAT(Run(), ElementsAre("7:9=49"));
  EXPECT_THAT(model_.seen, ElementsAre(SeenRows{8, {40}, {5, 2, 9}}));
}

TEST_F(StepRunnerTest, SequencesShareStepsAndLeave) {
  Plan();
  Enter(1, {3, 4}, 2);
  Enter(2, {50}, 1);
  Work(1, 0, 2, true, {0});
  Work(2, 0, 1, true, {1});
  EXPECT_THAT(Run(), ElementsAre("1:2=6", "2:1=51"));
  Plan();
  EXPECT_THAT(Run(), ElementsAre("1:3=9", "2:2=53"));
  Plan().add_stop_decode(1);
  EXPECT_THAT(Run(), ElementsAre("2:3=56"));
  EXPECT_EQ(runner_->sequences(), 2u);
  Plan().add_forget(1);
  plan_.add_forget(1);  // twice is no harm
  EXPECT_THAT(Run(), ElementsAre("2:4=60"));
  EXPECT_EQ(runner_->sequences(), 1u);
  Plan().add_forget(2);
  EXPECT_TRUE(Run().empty());
  EXPECT_EQ(runner_->sequences(), 0u);
}

TEST_F(StepRunnerTest, ABlockMayGoFromAForgottenSequenceToANewOneInOnePlan) {
  Plan();
  Enter(1, {3}, 1);
  Work(1, 0, 1, true, {4});
  Run();
  Plan().add_forget(1);
  Enter(2, {8}, 1);
  Work(2, 0, 1, true, {4});
  EXPECT_THAT(Run(), ElementsAre("2:1=9"));
}

TEST_F(StepRunnerTest, AResumedSequenceKeepsItsPromptApart) {
  // Prompt of two, two generated before a preemption; min_tokens counts generated ones.
  Plan();
  Enter(1, {1, 2, 3, 4}, 2);
  plan_.mutable_new_sequences(0)->mutable_sampling()->set_min_tokens(3);
  plan_.mutable_new_sequences(0)->mutable_sampling()->add_end_token_ids(Successor(4, 3));
  Work(1, 0, 4, true, {0});
  const std::vector<std::string> first = Run();
  ASSERT_EQ(first.size(), 1u);
  EXPECT_NE(first[0], "1:4=" + std::to_string(Successor(4, 3)));  // masked: only two were generated
}

TEST_F(StepRunnerTest, StartsBehindRowsThatThePrefixCacheHolds) {
  Plan();
  Enter(1, {1, 2, 3, 4, 5, 6}, 6);
  Work(1, 4, 2, true, {30, 31});
  EXPECT_THAT(Run(), ElementsAre("1:6=12"));
  EXPECT_THAT(model_.seen, ElementsAre(SeenRows{4, {5, 6}, {30, 31}}));
}

TEST_F(StepRunnerTest, PromptLogprobsDescribeTheTokensThatFollow) {
  Plan();
  Enter(1, {1, 2, 4, 9}, 4);
  plan_.mutable_new_sequences(0)->mutable_sampling()->set_top_logprobs(1);
  Work(1, 0, 2, false, {0}).set_prompt_logprobs(true);
  Run();
  ASSERT_EQ(done_.prompt_logprobs_size(), 1);
  EXPECT_EQ(done_.prompt_logprobs(0).sequence(), 1);
  EXPECT_EQ(done_.prompt_logprobs(0).position(), 1);
  ASSERT_EQ(done_.prompt_logprobs(0).logprobs_size(), 2);
  // Token 2 at position 1 is what the fake expects after token 1 at position 0; so is 4 at 2; 9 at
  // 3 is not.
  EXPECT_EQ(done_.prompt_logprobs(0).logprobs(0).top_tokens(0), 2);
  EXPECT_GT(done_.prompt_logprobs(0).logprobs(0).chosen(), -0.1f);
  EXPECT_EQ(done_.prompt_logprobs(0).logprobs(1).top_tokens(0), 4);

  Plan();
  Work(1, 2, 2, true, {}).set_prompt_logprobs(true);
  Run();
  ASSERT_EQ(done_.prompt_logprobs_size(), 1);
  EXPECT_EQ(done_.prompt_logprobs(0).position(), 3);
  ASSERT_EQ(done_.prompt_logprobs(0).logprobs_size(), 1);  // the last row describes no prompt token
  EXPECT_LT(done_.prompt_logprobs(0).logprobs(0).chosen(), -5.0f);
  ASSERT_EQ(done_.tokens_size(), 1);
  EXPECT_EQ(done_.tokens(0).logprobs().top_tokens(0), done_.tokens(0).token());
}

TEST_F(StepRunnerTest, AFailedForwardCommitsNothing) {
  Plan();
  Enter(1, {3}, 1);
  Work(1, 0, 1, true, {0});
  model_.result = absl::DeadlineExceededError("rank 2 waits");
  runner_->Run(plan_, done_);
  EXPECT_EQ(done_.status().code(), static_cast<int>(absl::StatusCode::kDeadlineExceeded));
  EXPECT_EQ(done_.status().message(), "rank 2 waits");
  EXPECT_EQ(done_.tokens_size(), 0);
  EXPECT_THAT(done_.blamed(), ElementsAre());
  model_.result = absl::OkStatus();
  runner_->Reset();
  EXPECT_EQ(runner_->sequences(), 0u);
  Plan();
  EXPECT_TRUE(Run().empty());
}

TEST_F(StepRunnerTest, AFailureSaysWhomItIsAbout) {
  TimedExchange exchange(RankId(1), 4, 64);
  runner_ = std::make_unique<StepRunner>(options_, model_, &exchange);
  Plan();
  // A message to itself that is bad is its own fault.
  model_.result =
      BlamePeers(absl::DeadlineExceededError("waits"), {RankId(3), RankId(1), RankId(2)});
  runner_->Run(plan_, done_);
  EXPECT_EQ(done_.status().message(), "waits");
  EXPECT_THAT(done_.blamed(), ElementsAre(3, 2));
  model_.result = absl::OkStatus();
  Plan();
  Run();
  EXPECT_THAT(done_.blamed(), ElementsAre());
}

// The coordinator has committed tokens up to 12 and 13; the worker has gone on, and its last step
// was interrupted. Both sequences say again what they said, wherever their next blocks lie.
TEST_F(StepRunnerTest, ANewEpochGoesBackToWhatWasCommitted) {
  Plan();
  Enter(1, {10, 11, 12}, 2);
  Enter(2, {20, 13}, 1);
  Enter(3, {30}, 1);
  Work(1, 0, 3, true, {5});
  Work(2, 0, 2, true, {6});
  Work(3, 0, 1, true, {7});
  const std::vector<std::string> first = Run();
  EXPECT_THAT(first, ElementsAre("1:3=15", "2:2=15", "3:1=31"));
  Plan();
  Run();
  Plan();
  Work(1, 4, 1, true, {8});
  const std::vector<std::string> third = Run();
  Plan();
  Enter(4, {40}, 1);
  Work(4, 0, 1, true, {9});
  model_.result = absl::UnavailableError("rank 2 is gone");
  runner_->Run(plan_, done_);
  EXPECT_NE(done_.status().code(), 0);
  model_.result = absl::OkStatus();

  epoch_ = 4;
  Plan();
  Rewind(1, 3, 2);
  Rewind(2, 2, 1);
  Enter(13, {30, 31}, 1);  // an id is used once; this one replays
  Work(1, 2, 1, true, {});  // row 2 again, in the block that holds rows 0 and 1
  Work(13, 0, 2, true, {7});
  EXPECT_THAT(Run(), ElementsAre("1:3=15", "13:2=33"));
  EXPECT_EQ(runner_->sequences(), 3u);  // 1, 2 and 13
  EXPECT_THAT(model_.seen, ElementsAre(SeenRows{2, {12}, {5}}, SeenRows{0, {30, 31}, {7}}));
  Plan();  // 2 was not in the decode set and is told to go on now
  Work(2, 1, 1, true, {});
  EXPECT_THAT(Run(), ElementsAre("2:2=15", "1:4=19", "13:3=36"));
  Plan();
  Work(1, 4, 1, true, {11});  // another block than before
  EXPECT_THAT(Run(), ElementsAre(third[0], "13:4=40", "2:3=18"));
}

TEST_F(StepRunnerTest, TheFirstPlanOfAnEpochForgetsWhatItDoesNotName) {
  for (bool named : {true, false}) {
    Plan();
    Enter(1, {3}, 1);
    Work(1, 0, 1, true, {0});
    Run();
    ++epoch_;
    Plan();
    if (named) Rewind(1, 1, 0);
    EXPECT_TRUE(Run().empty());
    EXPECT_EQ(runner_->sequences(), named ? 1u : 0u);
    if (named) Plan().add_forget(1), Run();
  }
}

TEST_F(StepRunnerTest, RewindsThatCannotBeAreErrors) {
  const std::vector<std::pair<std::function<void()>, std::string>> cases = {
      {[&] { Rewind(9, 2, 1); }, "is unknown"},
      {[&] { Rewind(1, 2, 1), Rewind(1, 2, 1); }, "rewound twice"},
      {[&] { Rewind(1, 1, 1); }, "back to 1 tokens of 3, its prompt has 2"},
      {[&] { Rewind(1, 4, 1); }, "back to 4 tokens of 3"},
      {[&] { Rewind(1, 2, 3); }, "back to 3 rows of 2 tokens"},
      {[&] { Rewind(1, 2, -1); }, "back to -1 rows"},
  };
  for (const auto& [make, message] : cases) {
    runner_->Reset();
    Plan();
    Enter(1, {1, 2}, 2);
    Work(1, 0, 2, true, {0});
    Run();
    ++epoch_;
    Plan();
    make();
    EXPECT_THAT(RunFails(), HasSubstr(message));
  }
  runner_->Reset();
  Plan();
  Enter(1, {1, 2}, 2);
  Work(1, 0, 2, true, {0});
  Run();
  Plan();
  Rewind(1, 2, 1);
  EXPECT_THAT(RunFails(), HasSubstr("in the middle of an epoch"));
}

TEST_F(StepRunnerTest, LogitsThatAreNoNumbersFailTheirSequenceAlone) {
  class NanModel final : public Model {
   public:
    NanModel() { config_.vocab_size = kVocab, config_.max_position_embeddings = kContext; }
    const ModelConfig& config() const override { return config_; }
    absl::Span<const int64_t> expert_tokens() const override { return {}; }
    // Token 3 is poisoned: the logits of its rows are no numbers.
    absl::Status Forward(const StepTag&, const Batch& batch, TensorView logits) override {
      for (size_t row = 0; row < batch.logit_rows.size(); ++row) {
        const bool poisoned = batch.tokens[batch.logit_rows[row]] == 3;
        std::fill_n(logits.f32() + row * kVocab, kVocab, poisoned ? std::nanf("") : 0.0f);
      }
      return absl::OkStatus();
    }
    void SetLayerObserver(std::function<void(int, TensorView)>) override {}
    absl::Status InstallPlacement(const ExpertPlacement&, absl::Span<const int>) override {
    return absl::OkStatus();
  }
    int64_t weight_bytes() const override { return 0; }
    int64_t bytes_read() const override { return 0; }

   private:
    ModelConfig config_;
  } nan;
  runner_ = std::make_unique<StepRunner>(options_, nan, nullptr);
  Plan();
  Enter(1, {3}, 1);
  Work(1, 0, 1, true, {0});
  Enter(2, {4}, 1);
  Work(2, 0, 1, true, {1});
  runner_->Run(plan_, done_);
  EXPECT_EQ(done_.status().code(), 0);
  ASSERT_EQ(done_.failures_size(), 1);
  EXPECT_EQ(done_.failures(0).sequence(), 1);
  EXPECT_THAT(done_.failures(0).why(), testing::HasSubstr("nan"));
  ASSERT_EQ(done_.tokens_size(), 2);
  EXPECT_EQ(done_.tokens(1).sequence(), 2);
}

TEST_F(StepRunnerTest, PlansThatContradictThemselvesAreErrors) {
  const std::vector<std::pair<std::function<void()>, std::string>> cases = {
      {[&] { Work(1, 0, 1, true, {0}); }, "is unknown"},
      {[&] { Enter(1, {}, 0); }, "0 tokens"},
      {[&] { Enter(1, std::vector<int32_t>(kContext + 1, 1), 1); }, "41 tokens"},
      {[&] {
         Enter(1, {1, 2}, 3);
       },
       "3 prompt tokens"},
      {[&] {
         Enter(1, {1, kVocab}, 2);
       },
       "token 100"},
      {[&] { Enter(1, {-1}, 1); }, "token -1"},
      {[&] { Enter(1, {1}, 1), Enter(1, {1}, 1); }, "is here already"},
      {[&] {
         Enter(1, {1, 2}, 2), Work(1, 0, 3, true, {0});
       },
       "rows [0, 3)"},
      {[&] {
         Enter(1, {1, 2}, 2), Work(1, -1, 1, false, {0});
       },
       "rows [-1, 0)"},
      {[&] {
         Enter(1, {1, 2}, 2), Work(1, 0, 0, false, {0});
       },
       "rows [0, 0)"},
      {[&] {
         Enter(1, {1, 2}, 2), Work(1, 2147483647, 2147483647, false, {0});
       },
       "rows [2147483647"},
      {[&] {
         Enter(1, {1, 2}, 2), Work(1, 0, 1, true, {0});
       },
       "samples before its last token"},
      {[&] {
         Enter(1, {1, 2, 3, 4, 5}, 5), Work(1, 0, 5, true, {0});
       },
       "1 blocks for 5 tokens"},
      {[&] { Enter(1, {1}, 1), Work(1, 0, 1, true, {32}); }, "block 32 of 32"},
      {[&] { Enter(1, {1}, 1), Work(1, 0, 1, true, {-1}); }, "block -1"},
      {[&] { Enter(1, {1}, 1), Work(1, 0, 1, true, {0}), Work(1, 0, 1, true, {}); }, "two pieces"},
      {[&] {
         Enter(1, std::vector<int32_t>(17, 1), 17), Work(1, 0, 17, true, {0, 1, 2, 3, 4});
       },
       "more than 16 rows"},
      {[&] {
         Enter(1, std::vector<int32_t>(12, 1), 12);
         Work(1, 0, 12, true, {0, 1, 2}).set_prompt_logprobs(true);
       },
       "more than 8 rows of logits"},
  };
  for (const auto& [make, message] : cases) {
    runner_->Reset();
    Plan();
    make();
    EXPECT_THAT(RunFails(), HasSubstr(message));
  }
}

TEST_F(StepRunnerTest, DecodingBeyondTheContextIsAnErrorAndNoOverrun) {
  Plan();
  Enter(1, std::vector<int32_t>(kContext - 1, 1), 1);
  std::vector<int32_t> blocks;
  for (int i = 0; i <= kContext / 4; ++i) blocks.push_back(i);
  Work(1, kContext - 2, 1, true, blocks);
  EXPECT_EQ(Run().size(), 1u);
  Plan();
  EXPECT_EQ(Run().size(), 1u);  // feeds the last position
  Plan();
  EXPECT_THAT(RunFails(), HasSubstr("rows [40, 41)"));
}

TEST_F(StepRunnerTest, SteadyDecodeAllocatesNothing) {
  Plan();
  for (int64_t id = 1; id <= 8; ++id) {
    Enter(id, {static_cast<int32_t>(id)}, 1);
    plan_.mutable_new_sequences(static_cast<int>(id) - 1)
        ->mutable_sampling()
        ->set_temperature(id % 2 ? 0.f : 0.8f);
    std::vector<int32_t> blocks = {static_cast<int32_t>(id) * 3, static_cast<int32_t>(id) * 3 + 1};
    Work(id, 0, 1, true, blocks);
  }
  EXPECT_EQ(Run().size(), 8u);
  Plan();
  EXPECT_EQ(Run().size(), 8u);  // the result has grown
  model_.record = false;
  for (int step = 0; step < 4; ++step) {
    plan_.set_step(100 + step);
    const int64_t before = allocations;
    runner_->Run(plan_, done_);
    EXPECT_EQ(allocations - before, 0) << "in step " << step;
    EXPECT_EQ(done_.tokens_size(), 8);
  }
}

}  // namespace
}  // namespace shoal
