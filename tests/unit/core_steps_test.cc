// SPDX-License-Identifier: Apache-2.0
// Shows how the core plans and commits steps, one decision at a time, as transcripts of commands
// (core_transcript.h): plans as deltas and one step ahead, chunks, blocks, the commit rule, the
// ends of sequences, and what becomes of results that make no sense.
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/core_transcript.h"

namespace shoal::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

TEST(CoreSteps, OneRequestFromArrivalToItsEnd) {
  Transcript t(Transcript::Small());
  t.Serve();
  // The first decode step is planned before the prefill is reported, and needs no words.
  EXPECT_THAT(t.Arrive(MakeRequest(1, 3, 3)),
              ElementsAre("plan w1 s1: new 1 [10 11 12] prompt 3; work 1 [0,3) sample blocks 0",
                          "plan w1 s2:"));
  // The third token's row begins a block.
  EXPECT_THAT(t.Done(1, 1, {{1, 3, 51}}),
              ElementsAre("emit r1.0 @0 [51]", "plan w1 s3: work 1 [4,5) sample blocks 1"));
  // All three tokens are planned: nothing further is.
  EXPECT_THAT(t.Done(1, 2, {{1, 4, 52}}), ElementsAre("emit r1.0 @1 [52]"));
  EXPECT_THAT(t.Done(1, 3, {{1, 5, 53}}), ElementsAre("emit r1.0 @2 [53] length"));
  EXPECT_EQ(t.Snapshot().workers[0].blocks_used, 0);
  // The worker hears of the end with the next step that has rows.
  EXPECT_THAT(t.Arrive(MakeRequest(2, 2, 1)),
              ElementsAre("plan w1 s4: forget 1; new 2 [10 11] prompt 2; work 2 [0,2) sample "
                          "blocks 1"));
}

TEST(CoreSteps, SteadyDecodeSaysNothingButNewBlocks) {
  Transcript t(Transcript::Small());
  t.Serve();
  t.Arrive(MakeRequest(1, 4, 30));
  for (int step = 1; step < 20; ++step) {
    const Lines lines = t.Done(1, step, {{1, 3 + step, 50}});
    const int row = 4 + step;  // of the step planned ahead of the one in flight
    const std::string plan = absl::StrCat("plan w1 s", step + 2, ":");
    EXPECT_EQ(Last(lines), row % 4 == 0 ? absl::StrCat(plan, " work 1 [", row, ",", row + 1,
                                                       ") sample blocks ", row / 4)
                                        : plan);
  }
}

TEST(CoreSteps, RanksWithoutWorkAttendAndAnIdleClusterIsSilent) {
  Transcript t(Transcript::Small(3));
  t.Serve();
  EXPECT_THAT(t.Do(Tick{}), IsEmpty());
  EXPECT_THAT(t.Arrive(MakeRequest(1, 2, 1)),
              ElementsAre("plan w1 s1: new 1 [10 11] prompt 2; work 1 [0,2) sample blocks 0",
                          "plan w2 s1:", "plan w3 s1:"));
  EXPECT_THAT(t.Done(2, 1), IsEmpty());
  EXPECT_THAT(t.Done(3, 1), IsEmpty());
  EXPECT_THAT(t.Done(1, 1, {{1, 2, 50}}), ElementsAre("emit r1.0 @0 [50] length"));
  EXPECT_THAT(t.Do(Tick{}), IsEmpty());
  EXPECT_EQ(t.Arrive(MakeRequest(2, 2, 1)).size(), 3u);
}

TEST(CoreSteps, TokensCountOnlyWhenAllRanksHaveReported) {
  Transcript t(Transcript::Small(2));
  t.Serve();
  t.Arrive(MakeRequest(1, 2, 9));
  EXPECT_THAT(t.Done(1, 1, {{1, 2, 50}}), IsEmpty());
  EXPECT_THAT(t.Done(1, 2, {{1, 3, 51}}), IsEmpty());  // ahead of the other rank's first
  EXPECT_THAT(t.Done(2, 1), ElementsAre("emit r1.0 @0 [50]", "plan w1 s3:", "plan w2 s3:"));
  EXPECT_THAT(t.Done(2, 2), ElementsAre("emit r1.0 @1 [51]",
                                        "plan w1 s4: work 1 [4,5) sample blocks 1", "plan w2 s4:"));
}

TEST(CoreSteps, ATokenSampledAheadOfTheEndIsDropped) {
  Transcript t(Transcript::Small());
  t.Serve();
  t.Arrive(MakeRequest(1, 2, 9));
  // The end token is not text.
  EXPECT_THAT(t.Done(1, 1, {{1, 2, 0}}), ElementsAre("emit r1.0 @0 [] stop"));
  EXPECT_EQ(t.Snapshot().workers[0].blocks_used, 0);
  EXPECT_THAT(t.Done(1, 2, {{1, 3, 51}}), IsEmpty());
}

TEST(CoreSteps, EndTokensCountFromMinTokensOn) {
  Transcript t(Transcript::Small());
  t.Serve();
  Request request = MakeRequest(1, 2, 9);
  request.sampling.min_tokens = 1;
  t.Arrive(request);
  EXPECT_EQ(First(t.Done(1, 1, {{1, 2, 0}})), "emit r1.0 @0 [0]");
  EXPECT_EQ(First(t.Done(1, 2, {{1, 3, 0}})), "emit r1.0 @1 [] stop");
}

TEST(CoreSteps, PrefillGoesInChunksBesideDecodingSequences) {
  CoreConfig config = Transcript::Small();
  config.max_batch_rows = 5;
  Transcript t(config);
  t.Serve();
  t.Arrive(MakeRequest(1, 2, 20));
  t.Done(1, 1, {{1, 2, 50}});
  t.Arrive(MakeRequest(2, 10, 5, 20));
  // One row of five is the first sequence's; it is never held up.
  EXPECT_THAT(
      t.Done(1, 2, {{1, 3, 51}}),
      ElementsAre("emit r1.0 @1 [51]",
                  "plan w1 s4: new 2 [20 21 22 23 24 25 26 27 28 29] prompt 10; work 1 [4,5) "
                  "sample blocks 1; work 2 [0,4) blocks 2 3 4"));
  EXPECT_THAT(t.Done(1, 3, {{1, 4, 52}}),
              ElementsAre("emit r1.0 @2 [52]", "plan w1 s5: work 2 [4,8)"));
  EXPECT_THAT(t.Done(1, 4, {{1, 5, 53}}),
              ElementsAre("emit r1.0 @3 [53]", "plan w1 s6: work 2 [8,10) sample"));
}

TEST(CoreSteps, LogprobsTravelWithTheirTokens) {
  Transcript t(Transcript::Small());
  t.Serve();
  Request request = MakeRequest(1, 2, 9);
  request.sampling.top_logprobs = 1;
  t.Arrive(request);
  StepDone done = Transcript::Report(1, 1, {{1, 2, 50}});
  done.tokens[0].logprobs = TokenLogprobs{-0.5f, {{50, -0.5f}}};
  t.Do(done);
  const Emit& emit = std::get<Emit>(t.commands[0]);
  ASSERT_EQ(emit.logprobs.size(), 1u);
  EXPECT_EQ(emit.logprobs[0], *done.tokens[0].logprobs);
}

TEST(CoreSteps, TheFirstEmissionSaysHowLongTheRequestWaited) {
  Transcript t(Transcript::Small());
  t.Arrive(MakeRequest(1, 2, 2));
  t.now += absl::Seconds(3);  // until there is a worker
  t.Serve();
  t.now += absl::Seconds(1);  // computing
  t.Done(1, 1, {{1, 2, 50}});
  EXPECT_EQ(std::get<Emit>(t.commands[0]).queued, absl::Seconds(3));
  t.Done(1, 2, {{1, 3, 51}});
  EXPECT_EQ(std::get<Emit>(t.commands[0]).queued, absl::ZeroDuration());
}

TEST(CoreSteps, PromptLogprobsTakeAsManyRowsAsThereAreLogits) {
  Transcript t(Transcript::Small());  // 4 rows with logits a step
  t.Serve();
  Request request = MakeRequest(1, 6, 0);
  request.sampling.prompt_logprobs = true;
  // The last prompt token's row would only tell what comes after it, and nothing is to come.
  EXPECT_THAT(t.Arrive(request),
              ElementsAre("plan w1 s1: new 1 [10 11 12 13 14 15] prompt 6; work 1 [0,4) "
                          "prompt_logprobs blocks 0 1",
                          "plan w1 s2: work 1 [4,5) prompt_logprobs"));
  StepDone first = Transcript::Report(1, 1);
  first.prompt_logprobs = {{SequenceId(1), 1, {{-1.f, {}}, {-2.f, {}}, {-3.f, {}}, {-4.f, {}}}}};
  EXPECT_THAT(t.Do(first), IsEmpty());
  StepDone second = Transcript::Report(1, 2);
  second.prompt_logprobs = {{SequenceId(1), 5, {{-5.f, {}}}}};
  EXPECT_THAT(t.Do(second), ElementsAre("emit r1.0 @0 [] length"));
  const Emit& emit = std::get<Emit>(t.commands[0]);
  ASSERT_EQ(emit.prompt_logprobs.size(), 5u);
  EXPECT_EQ(emit.prompt_logprobs[4].chosen, -5.f);
}

TEST(CoreSteps, NothingToComputeEndsAtOnce) {
  Transcript t(Transcript::Small());
  t.Serve();
  EXPECT_THAT(t.Arrive(MakeRequest(1, 5, 0)), ElementsAre("emit r1.0 @0 [] length"));
}

TEST(CoreSteps, ReportsThatWereNotAskedForAreIgnored) {
  Transcript t(Transcript::Small());
  t.Serve();
  t.Arrive(MakeRequest(1, 2, 9));
  EXPECT_THAT(t.Done(7, 1, {{1, 2, 50}}), IsEmpty());  // a stranger
  EXPECT_THAT(t.Done(1, 9, {{1, 2, 50}}), IsEmpty());  // no such step
  StepDone stale = Transcript::Report(1, 1, {{1, 2, 50}});
  stale.epoch = Epoch(4);
  EXPECT_THAT(t.Do(stale), IsEmpty());
  // Tokens of unknown sequences among good ones, and out of order.
  EXPECT_EQ(First(t.Done(1, 1, {{99, 2, 5}, {1, 2, 50}, {0, 1, 1}})), "emit r1.0 @0 [50]");
  EXPECT_THAT(t.Done(1, 1, {{1, 2, 50}}), IsEmpty());  // again
  EXPECT_EQ(First(t.Done(1, 2, {{1, 3, 51}})), "emit r1.0 @1 [51]");
}

TEST(CoreSteps, AWorkerWhoseReportContradictsThePlanIsEvicted) {
  const std::vector<std::vector<std::vector<int32_t>>> bad_tokens = {
      {}, {{2, 2, 50}}, {{1, 3, 50}}, {{1, 2, -7}}};
  for (const auto& tokens : bad_tokens) {
    Transcript t(Transcript::Small());
    t.Serve();
    t.Arrive(MakeRequest(1, 2, 9));
    EXPECT_THAT(t.Done(1, 1, tokens), ElementsAre(StartsWith("evict w1: INTERNAL: step 1: ")));
    EXPECT_EQ(t.Snapshot().requests_running, 1);
  }
  Transcript t(Transcript::Small());
  t.Serve();
  Request request = MakeRequest(1, 3, 2);
  request.sampling.prompt_logprobs = true;
  request.sampling.top_logprobs = 0;
  t.Arrive(request);
  EXPECT_THAT(Last(t.Done(1, 1, {{1, 3, 50}})), HasSubstr("no log-probabilities for sequence 1"));
}

}  // namespace
}  // namespace shoal::testing
