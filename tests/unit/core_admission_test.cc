// SPDX-License-Identifier: Apache-2.0
// Shows which requests the core takes in and how they end without having run, as transcripts of
// commands (core_transcript.h): bounds, deadlines, cancellation, draining, and requests that could
// never fit.
#include <cmath>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/core_transcript.h"

namespace shoal::testing {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

TEST(CoreAdmission, AFullQueueSaysWhenToComeBack) {
  CoreConfig config = Transcript::Small();
  config.max_queued_requests = 2;
  config.max_running_sequences = 1;
  Transcript t(config);
  t.Serve();
  for (int64_t id = 1; id <= 3; ++id) t.Arrive(MakeRequest(id, 2, 1));
  EXPECT_THAT(t.Arrive(MakeRequest(4, 2, 1)), IsEmpty());  // 1 and 2 run, 3 and 4 wait
  EXPECT_THAT(
      t.Arrive(MakeRequest(5, 2, 1)),
      ElementsAre("reject r5: RESOURCE_EXHAUSTED: 2 requests are waiting already retry after 1s"));
  // Two requests end 10 s apart while others wait: the two that wait will take about 20 s.
  t.Done(1, 1, {{1, 2, 50}});
  t.Arrive(MakeRequest(6, 2, 1));
  t.now += absl::Seconds(10);
  t.Done(1, 2, {{2, 2, 50}});
  t.Arrive(MakeRequest(7, 2, 1));
  EXPECT_THAT(t.Arrive(MakeRequest(8, 2, 1)), ElementsAre(HasSubstr("retry after 20s")));
}

TEST(CoreAdmission, AbsurdRequestsAreTurnedAway) {
  Transcript t(Transcript::Small());
  t.Serve(3);
  Request request = MakeRequest(1, 2, 5);
  request.n = 0;
  EXPECT_THAT(t.Arrive(request),
              ElementsAre("reject r1: INVALID_ARGUMENT: n is 0, must be 1 to 128"));
  request = MakeRequest(1, 0, 5);
  EXPECT_THAT(t.Arrive(request),
              ElementsAre("reject r1: INVALID_ARGUMENT: the prompt has no tokens"));
  EXPECT_THAT(t.Arrive(MakeRequest(1, 2, -1)), ElementsAre(HasSubstr("max_tokens is -1")));
  EXPECT_THAT(
      t.Arrive(MakeRequest(1, 60, 2'000'000'000)),
      ElementsAre("reject r1: INVALID_ARGUMENT: the prompt's 60 tokens and max_tokens 2000000000 "
                  "exceed the context of 64"));
  EXPECT_THAT(
      t.Arrive(MakeRequest(1, 4, 10)),
      ElementsAre("reject r1: INVALID_ARGUMENT: prompt and max_tokens want 4 cache blocks of 4 "
                  "tokens, a worker has 3"));
  EXPECT_THAT(t.Arrive(MakeRequest(1, 4, 9)), Contains(HasSubstr("new 1")));
}

TEST(CoreAdmission, WhatCanNeverFitIsTurnedAwayOnceTheBlocksAreKnown) {
  Transcript t(Transcript::Small());
  EXPECT_THAT(t.Arrive(MakeRequest(1, 20, 10)), IsEmpty());
  EXPECT_THAT(t.Arrive(MakeRequest(2, 2, 1)), IsEmpty());
  t.Join(1, 3);
  const Lines lines = t.Ready(1, 1);
  EXPECT_THAT(First(lines),
              StartsWith("reject r1: INVALID_ARGUMENT: prompt and max_tokens want 8 cache"));
  EXPECT_THAT(lines, Contains(HasSubstr("new 1 [10 11]")));
}

TEST(CoreAdmission, ALiveIdComesOnlyOnce) {
  Transcript t(Transcript::Small());
  t.Serve();
  t.Arrive(MakeRequest(1, 2, 9));
  EXPECT_THAT(t.Arrive(MakeRequest(1, 5, 9)), IsEmpty());
  EXPECT_EQ(t.Snapshot().requests_running, 1);
}

TEST(CoreAdmission, DeadlinesPassInTheQueueAndWhileRunning) {
  CoreConfig config = Transcript::Small();
  config.max_running_sequences = 1;
  config.heartbeat_timeout = absl::Hours(1);
  Transcript t(config);
  t.Serve();
  for (int64_t id = 1; id <= 2; ++id) {
    Request request = MakeRequest(id, 2, 9);
    request.deadline = t.now + absl::Seconds(id);
    t.Arrive(request);
  }
  EXPECT_THAT(t.TickAfter(absl::Milliseconds(999)), IsEmpty());
  t.Done(1, 1, {{1, 2, 50}});
  // With the first gone the second starts, and fails a second later.
  EXPECT_THAT(
      t.TickAfter(absl::Milliseconds(1)),
      ElementsAre(
          "emit r1.0 @1 [] error DEADLINE_EXCEEDED: the request's deadline passed while it ran"));
  EXPECT_THAT(
      t.TickAfter(absl::Seconds(1)),
      ElementsAre("reject r2: DEADLINE_EXCEEDED: the request's deadline passed in the queue"));
  Request late = MakeRequest(3, 2, 9);
  late.deadline = t.now;
  EXPECT_THAT(t.Arrive(late), ElementsAre(StartsWith("reject r3: DEADLINE_EXCEEDED")));
}

TEST(CoreAdmission, ACancelledRequestFreesItsBlocksAtOnce) {
  Transcript t(Transcript::Small());
  t.Serve();
  t.Arrive(MakeRequest(1, 6, 9));
  EXPECT_EQ(t.Snapshot().workers[0].blocks_used, 2);
  EXPECT_THAT(t.Do(RequestCancelled{RequestId(1), std::nullopt}),
              ElementsAre("emit r1.0 @0 [] cancelled"));
  EXPECT_EQ(t.Snapshot().workers[0].blocks_used, 0);
  EXPECT_THAT(t.Do(RequestCancelled{RequestId(1), std::nullopt}), IsEmpty());
  EXPECT_THAT(t.Done(1, 1, {{1, 6, 50}}), IsEmpty());
}

TEST(CoreAdmission, OneChoiceCanBeCancelledAlone) {
  Transcript t(Transcript::Small());
  t.Serve();
  Request request = MakeRequest(1, 2, 9);
  request.n = 2;
  t.Arrive(request);
  EXPECT_THAT(t.Do(RequestCancelled{RequestId(1), 0}), ElementsAre("emit r1.0 @0 [] cancelled"));
  EXPECT_THAT(t.Do(RequestCancelled{RequestId(1), 2}), IsEmpty());
  EXPECT_THAT(t.Do(RequestCancelled{RequestId(1), -1}), IsEmpty());
  EXPECT_EQ(First(t.Done(1, 1, {{1, 2, 50}, {2, 2, 60}})), "emit r1.1 @0 [60]");
}

TEST(CoreAdmission, DrainingFinishesWhatIsHereAndTakesNothingNew) {
  CoreConfig config = Transcript::Small();
  config.max_running_sequences = 1;
  Transcript t(config);
  t.Serve();
  t.Arrive(MakeRequest(1, 2, 1));
  t.Arrive(MakeRequest(2, 2, 1));
  t.Arrive(MakeRequest(3, 2, 1));
  EXPECT_THAT(t.Do(DrainStarted{}), IsEmpty());
  EXPECT_EQ(t.Snapshot().workers[0].state, "draining");
  EXPECT_THAT(t.Arrive(MakeRequest(4, 2, 1)),
              ElementsAre("reject r4: UNAVAILABLE: the server is shutting down"));
  t.Done(1, 1, {{1, 2, 50}});
  t.Done(1, 2, {{2, 2, 50}});
  EXPECT_THAT(t.Done(1, 3, {{3, 2, 50}}), ElementsAre("emit r3.0 @0 [50] length", "drained"));
  EXPECT_THAT(t.Do(DrainStarted{}), IsEmpty());
}

TEST(CoreAdmission, DrainingGoesOnWithTheSurvivors) {
  CoreConfig config = Transcript::Small(2);
  config.holders = 2;
  Transcript t(config);
  t.Serve();
  t.Arrive(MakeRequest(1, 2, 1));
  t.Do(DrainStarted{});
  EXPECT_THAT(t.Lose(1), ElementsAre("assign w2 rank 1 epoch 2 without 0"));
  EXPECT_THAT(First(t.Ready(2, 2)), HasSubstr("new 2 [10 11]"));
  EXPECT_THAT(t.Done(2, 2, {{2, 2, 50}}), ElementsAre("emit r1.0 @0 [50] length", "drained"));
}

TEST(CoreAdmission, DrainingWaitsForThoseWhoTakeTheDeadsPlace) {
  Transcript t(Transcript::Small());
  t.Serve();
  t.Arrive(MakeRequest(1, 2, 1));
  t.Do(DrainStarted{});
  EXPECT_THAT(t.Lose(1), IsEmpty());
  EXPECT_THAT(t.Join(2), ElementsAre("load w2 rank 0"));
  EXPECT_THAT(t.Do(WorkerLoaded{WorkerId(2)}), ElementsAre("assign w2 rank 0 epoch 2"));
  EXPECT_THAT(First(t.Ready(2, 2)), HasSubstr("new 2 [10 11]"));
  EXPECT_THAT(t.Done(2, 2, {{2, 2, 50}}), ElementsAre("emit r1.0 @0 [50] length", "drained"));
}

TEST(CoreAdmission, DrainingWithoutWorkersEndsAtOnce) {
  Transcript t(Transcript::Small(2));
  t.Arrive(MakeRequest(1, 2, 1));
  EXPECT_THAT(t.Do(DrainStarted{}), ElementsAre(StartsWith("reject r1: UNAVAILABLE"), "drained"));
}

TEST(CoreAdmission, ConfigsThatMakeNoSenseAreNamed) {
  const auto said = [](auto change) {
    CoreConfig config = Transcript::Small();
    change(config);
    return Validate(config).ToString();
  };
  EXPECT_EQ(said([](CoreConfig&) {}), "OK");
  EXPECT_THAT(said([](CoreConfig& c) { c.workers = 0; }), HasSubstr("workers is 0"));
  EXPECT_THAT(said([](CoreConfig& c) { c.workers = 9; }), HasSubstr("8"));
  EXPECT_THAT(said([](CoreConfig& c) { c.block_tokens = -4; }), HasSubstr("block_tokens is -4"));
  EXPECT_THAT(said([](CoreConfig& c) { c.max_batch_rows = 0; }), HasSubstr("max_batch_rows is 0"));
  EXPECT_THAT(said([](CoreConfig& c) { c.max_context = int64_t{1} << 40; }),
              HasSubstr("max_context"));
  EXPECT_THAT(said([](CoreConfig& c) { c.step_timeout = absl::ZeroDuration(); }),
              HasSubstr("timeouts"));
  EXPECT_THAT(said([](CoreConfig& c) { c.holders = 2; }), HasSubstr("holders is 2, with 1 workers"));
  EXPECT_THAT(said([](CoreConfig& c) { c.holders = 0; }), HasSubstr("holders is 0"));
  EXPECT_THAT(said([](CoreConfig& c) { c.redundant_experts = -1; }),
              HasSubstr("redundant_experts is -1"));
  // With further copies there may be more workers than experts.
  EXPECT_EQ(said([](CoreConfig& c) { c.workers = 20, c.holders = 2; }), "OK");
  EXPECT_EQ(said([](CoreConfig& c) { c.workers = 9, c.redundant_experts = 1; }), "OK");
  EXPECT_EQ(said([](CoreConfig& c) { c.workers = 2, c.redundant_experts = 8; }), "OK");
  EXPECT_THAT(said([](CoreConfig& c) { c.workers = 2, c.redundant_experts = 9; }),
              HasSubstr("layer 1: 8 experts, holders 1 and redundant_experts 9 want 17 copies; one "
                        "of each on 2 workers are 16"));
  EXPECT_EQ(said([](CoreConfig& c) { c.expert_load = {{}, std::vector<float>(8, 2.0f)}; }), "OK");
  EXPECT_THAT(said([](CoreConfig& c) { c.expert_load = {{}, {1.0f}}; }),
              HasSubstr("layer 1: want 8 experts, found 1"));
  EXPECT_THAT(said([](CoreConfig& c) {
                c.expert_load = {{}, std::vector<float>(8, std::nanf(""))};
              }),
              HasSubstr("layer 1 expert 0: want 0..1e+30 tokens, found nan"));
  EXPECT_THAT(said([](CoreConfig& c) {
                c.workers = c.holders = 2;
                c.placement = std::make_shared<const ExpertPlacement>(
                    *ExpertPlacement::Contiguous(2, std::vector<int>{0, 8}));
              }),
              HasSubstr("go without one"));
  EXPECT_THAT(said([](CoreConfig& c) {
                c.placement = std::make_shared<const ExpertPlacement>(
                    *ExpertPlacement::Contiguous(2, std::vector<int>{8}));
              }),
              HasSubstr("want 1 workers, found 2"));
}

}  // namespace
}  // namespace shoal::testing
