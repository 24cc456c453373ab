// SPDX-License-Identifier: Apache-2.0
// Shows what becomes of running requests when workers die, fail and come back, as transcripts of
// commands (core_transcript.h): survivors are rewound to what is committed, the dead one's sequences
// are replayed without holding up decodes, a pause keeps everything waiting, whoever has loaded enters
// between two steps, and operators are told how long each phase took and what the next death would
// cost.
#include <set>
#include <string>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/core_transcript.h"

namespace shoal::testing {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

// `workers` ranks, every expert on two of them.
CoreConfig Doubled(int workers) {
  CoreConfig config = Transcript::Small(workers);
  config.holders = 2;
  return config;
}

TEST(CoreRecovery, SurvivorsGoOnAtOnceAndRepeatTheStep) {
  Transcript t(Doubled(2));
  t.Serve();
  t.Arrive(MakeRequest(1, 2, 9, 10));  // on rank 0, as sequence 1
  t.Arrive(MakeRequest(2, 2, 9, 20));  // on rank 1, as sequence 2, from step 3
  t.Done(1, 1, {{1, 2, 51}});
  t.Done(2, 1);
  t.Done(1, 2, {{1, 3, 52}});
  t.Done(2, 2);
  // Steps 3 and 4 are in flight; rank 0 has reported step 3.
  t.Done(1, 3, {{1, 4, 53}});
  EXPECT_THAT(t.Lose(2), ElementsAre("assign w1 rank 0 epoch 2 without 1"));
  const auto& assign = std::get<AssignRank>(t.commands[0]);
  EXPECT_THAT(*assign.members, ElementsAre(WorkerId(1), std::nullopt));
  EXPECT_THAT(assign.placement->Holders(1, ExpertId(0)), ElementsAre(RankId(0), RankId(1)));
  EXPECT_TRUE(t.Snapshot().serving);  // it will, as soon as connections are made
  EXPECT_THAT(t.Do(Transcript::Report(1, 4, {{1, 5, 54}}, 1)), IsEmpty());  // of the old epoch
  // Four known tokens, the row of the last is not in the cache; token 53 was never committed. Block 1,
  // which step 4 had brought, is brought again. The other sequence comes over in the next step: this
  // one shall be short.
  EXPECT_THAT(t.Ready(1, 2),
              ElementsAre("plan w1 s5: rewind 1 to 4 tokens 3 rows; work 1 [3,4) sample blocks 1",
                          "plan w1 s6: new 3 [20 21] prompt 2; work 3 [0,2) sample blocks 2"));
  EXPECT_EQ(First(t.Done(1, 5, {{1, 4, 53}})), "emit r1.0 @2 [53]");
}

TEST(CoreRecovery, WhatASurvivorMayNotHaveSeenIsBroughtAgain) {
  Transcript t(Doubled(2));
  t.Serve();
  t.Arrive(MakeRequest(1, 5, 9));
  t.Do(WorkerLost{WorkerId(2), "killed"});
  // Step 1 brought the sequence and is void: another id, no rewind, block 0 is nobody's again.
  EXPECT_EQ(First(t.Ready(1, 2)),
            "plan w1 s3: new 2 [10 11 12 13 14] prompt 5; work 2 [0,5) sample blocks 0 1");
}

TEST(CoreRecovery, APromptGoesOnFromItsLastCommittedChunk) {
  Transcript t(Doubled(2));
  t.Serve();
  t.Arrive(MakeRequest(1, 40, 9));  // 16 rows a step
  t.Done(1, 1);
  t.Done(2, 1);  // [0,16) is committed, [16,32) and [32,40) are in flight
  t.Lose(2);
  EXPECT_EQ(First(t.Ready(1, 2)),
            "plan w1 s4: rewind 1 to 40 tokens 16 rows; work 1 [16,32) blocks 4 5 6 7 8 9");
}

TEST(CoreRecovery, ASequenceThatHadLeftWithItsLastRowComesBack) {
  Transcript t(Doubled(2));
  t.Serve();
  t.Arrive(MakeRequest(1, 9, 2));
  t.Done(1, 1, {{1, 9, 51}});
  t.Done(2, 1);
  // Step 2 computes its last row; a step 3 would not have it any more.
  t.Arrive(MakeRequest(2, 2, 1));
  t.Lose(2);
  // Its full blocks of committed rows are found in the cache.
  EXPECT_THAT(First(t.Ready(1, 2)), HasSubstr("work 3 [8,10) sample blocks 0 1 2"));
}

TEST(CoreRecovery, DecodesKeepTheirRowsWhileOthersAreReplayed) {
  CoreConfig config = Doubled(2);
  config.max_batch_rows = 4;
  config.max_running_sequences = 3;
  Transcript t(config);
  t.Serve();
  t.Arrive(MakeRequest(1, 2, 30, 10));
  t.Done(1, 1, {{1, 2, 51}});
  t.Done(2, 1);
  t.Arrive(MakeRequest(2, 12, 30, 20));
  for (int step = 2; step <= 6; ++step) {
    t.Done(1, step, {{1, 1 + step, 50 + step}});
    // Three chunks of four rows from step 4 on.
    if (step < 6) t.Done(2, step);
  }
  t.Done(2, 6, {{2, 12, 61}});
  ASSERT_EQ(t.Snapshot().workers[1].running_sequences, 1);
  t.Lose(2);
  // The rewound one needs a single row and goes on alone; then three rows a step are left for the
  // replay.
  const Lines lines = t.Ready(1, 2);
  EXPECT_EQ(lines[0], "plan w1 s9: rewind 1 to 8 tokens 7 rows; work 1 [7,8) sample blocks 2");
  EXPECT_THAT(lines[1], HasSubstr("work 3 [0,3)"));
  EXPECT_THAT(t.Done(1, 9, {{1, 8, 71}}),
              ElementsAre("emit r1.0 @6 [71]", HasSubstr("work 3 [3,6)")));
  EXPECT_THAT(t.Done(1, 10, {{1, 9, 72}}), Contains("emit r1.0 @7 [72]"));
}

TEST(CoreRecovery, ReplaysAreSpreadOverTheSurvivors) {
  Transcript t(Doubled(3));
  t.Serve();
  for (int id = 1; id <= 6; ++id) t.Arrive(MakeRequest(id, 2, 30, 10 * id));
  for (int step = 1; step <= 2; ++step) {
    for (int worker = 1; worker <= 3; ++worker) {
      std::vector<std::vector<int32_t>> tokens;
      if (worker == 1) tokens = {{1, 1 + step, 5}};
      t.Done(worker, step, tokens);
    }
  }
  EXPECT_EQ(t.Snapshot().workers[0].running_sequences, 2);
  EXPECT_EQ(t.Snapshot().workers[0].death.sequences, 2);
  EXPECT_EQ(t.Snapshot().workers[0].death.tokens, 6);  // four and two
  t.Lose(1);
  t.Ready(2, 2);
  t.Ready(3, 2);
  EXPECT_EQ(t.Snapshot().workers[1].running_sequences, 3);
  EXPECT_EQ(t.Snapshot().workers[2].running_sequences, 3);
}

TEST(CoreRecovery, WithoutAHolderEverythingWaits) {
  CoreConfig config = Transcript::Small(2);
  Transcript t(config);
  t.Serve();
  t.Arrive(MakeRequest(1, 2, 9, 10));
  t.Done(1, 1, {{1, 2, 51}});
  t.Done(2, 1);
  EXPECT_THAT(t.Lose(2), IsEmpty());
  EXPECT_EQ(t.Snapshot().paused, "layer 1 expert 4: no holder is left of ranks 1");
  EXPECT_FALSE(t.Snapshot().serving);
  EXPECT_EQ(t.Snapshot().least_holders, 0);
  Request late = MakeRequest(2, 2, 9, 20);
  late.deadline = t.now + absl::Seconds(1);
  EXPECT_THAT(t.Arrive(late), IsEmpty());  // taken, and waits
  t.Do(Heartbeat{WorkerId(1)});
  t.now += absl::Milliseconds(900);
  t.Do(Heartbeat{WorkerId(1)});
  EXPECT_THAT(t.TickAfter(absl::Milliseconds(200)),
              ElementsAre(StartsWith("reject r2: DEADLINE_EXCEEDED")));
  EXPECT_THAT(t.Join(3), ElementsAre("load w3 rank 1"));
  const auto& load = std::get<LoadExperts>(t.commands[0]);
  EXPECT_THAT(load.placement->HeldBy(1, RankId(1)), ::testing::SizeIs(4));
  EXPECT_THAT(t.Loaded(3), ElementsAre("assign w1 rank 0 epoch 2", "assign w3 rank 1 epoch 2"));
  t.Ready(1, 2);
  EXPECT_THAT(First(t.Ready(3, 2)), HasSubstr("rewind 1 to 3 tokens 2 rows; work 1 [2,3) sample"));
}

TEST(CoreRecovery, AllDeadAndBack) {
  Transcript t(Doubled(3));
  t.Serve();
  t.Arrive(MakeRequest(1, 2, 9, 10));
  t.Done(1, 1, {{1, 2, 51}});
  for (int worker : {2, 3}) t.Done(worker, 1);
  for (int worker : {3, 1, 2}) t.Lose(worker);
  EXPECT_EQ(t.Snapshot().paused, "no worker holds its experts");
  for (int worker : {4, 5, 6}) t.Join(worker);
  // Each expert is on two of three ranks, so two hold all.
  EXPECT_THAT(t.Loaded(5), IsEmpty());
  EXPECT_EQ(t.Loaded(6).size(), 2u);
  const int64_t epoch = t.Snapshot().epoch.value();
  t.Ready(5, epoch);
  EXPECT_THAT(t.Ready(6, epoch), Contains(HasSubstr("[10 11 51] prompt 2")));
}

TEST(CoreRecovery, WhoHasLoadedEntersBetweenTwoSteps) {
  Transcript t(Doubled(2));
  t.Serve();
  t.Arrive(MakeRequest(1, 2, 9));
  t.Lose(2);
  t.Ready(1, 2);  // steps 3 and 4
  EXPECT_THAT(t.Join(7, 100, 1), ElementsAre("load w7 rank 1"));
  EXPECT_EQ(t.Snapshot().workers[1].state, "loading");
  EXPECT_THAT(t.Done(1, 3, {{2, 2, 51}}), ElementsAre("emit r1.0 @0 [51]", "plan w1 s5:"));
  EXPECT_THAT(t.Loaded(7), IsEmpty());  // steps 4 and 5 go on
  EXPECT_THAT(t.Loaded(7), IsEmpty());
  EXPECT_EQ(t.Snapshot().workers[1].state, "joining");
  EXPECT_THAT(t.Done(1, 4, {{2, 3, 52}}), ElementsAre("emit r1.0 @1 [52]"));
  EXPECT_THAT(t.Done(1, 5, {{2, 4, 53}}),
              ElementsAre("emit r1.0 @2 [53]", "assign w1 rank 0 epoch 3", "assign w7 rank 1 epoch 3"));
  t.Ready(1, 3);
  EXPECT_THAT(t.Ready(7, 3),
              ElementsAre("plan w1 s6: rewind 2 to 5 tokens 4 rows; work 2 [4,5) sample blocks 1",
                          "plan w7 s6:", "plan w1 s7:", "plan w7 s7:"));
  EXPECT_EQ(t.Snapshot().recoveries.back().cause, Recovery::Cause::kEntry);
  EXPECT_EQ(t.Snapshot().least_holders, 2);
}

TEST(CoreRecovery, ADeathWhileSomebodyEnters) {
  Transcript t(Doubled(3));
  t.Serve();
  t.Arrive(MakeRequest(1, 2, 9));  // on rank 0
  t.Lose(3);
  t.Ready(1, 2);
  t.Ready(2, 2);
  t.Join(7);
  t.Done(1, 3, {{2, 2, 51}});
  t.Done(2, 3);
  t.Loaded(7);
  t.Done(1, 4, {{2, 3, 52}});
  t.Done(2, 4);
  t.Done(1, 5, {{2, 4, 53}});
  EXPECT_THAT(t.Done(2, 5), Contains("assign w7 rank 2 epoch 3"));
  t.Ready(1, 3);
  // The entrant and a survivor are left; the sequence was on the dead one.
  EXPECT_THAT(t.Lose(1),
              ElementsAre("assign w2 rank 1 epoch 4 without 0", "assign w7 rank 2 epoch 4 without 0"));
  t.Ready(7, 3);  // old
  t.Ready(7, 4);
  EXPECT_THAT(t.Ready(2, 4), Contains(HasSubstr("new 3 [10 11 51 52 53] prompt 2")));
}

TEST(CoreRecovery, TwoDeathsAtOneTickAreOneEpoch) {
  CoreConfig config = Transcript::Small(4);
  config.holders = 3;
  Transcript t(config);
  t.Serve();
  t.Arrive(MakeRequest(1, 2, 9));
  Lines lines;
  for (int tick = 0; tick < 20 && lines.empty(); ++tick) {
    for (int worker : {2, 4}) t.Do(Heartbeat{WorkerId(worker)});
    lines = t.TickAfter(absl::Milliseconds(50));
  }
  EXPECT_THAT(lines, ElementsAre(StartsWith("evict w1"), StartsWith("evict w3"),
                                 "assign w2 rank 1 epoch 2 without 0 without 2",
                                 "assign w4 rank 3 epoch 2 without 0 without 2"));
  const Recovery recovery = t.Snapshot().recoveries.at(0);
  EXPECT_EQ(recovery.who, "worker 1 (rank 0, pid 101 on host), worker 3 (rank 2, pid 103 on host)");
  EXPECT_THAT(recovery.why, StartsWith("no heartbeat for"));
  EXPECT_EQ(recovery.decided - recovery.suspected, absl::Milliseconds(50));
  EXPECT_EQ(recovery.suspected - recovery.heard, absl::Milliseconds(350));
}

TEST(CoreRecovery, OneThatWasOnlyThoughtDeadComesBackAndIsNotHeardBefore) {
  Transcript t(Doubled(2));
  t.Serve();
  t.Arrive(MakeRequest(1, 2, 9));
  t.Do(WorkerLost{WorkerId(2), "no heartbeat"});
  t.Ready(1, 2);
  // What it still says in its old life.
  EXPECT_THAT(t.Do(Transcript::Report(2, 1, {}, 1)), IsEmpty());
  EXPECT_THAT(t.Do(Transcript::Report(2, 3, {}, 2)), IsEmpty());
  EXPECT_THAT(t.Ready(2, 2), IsEmpty());
  EXPECT_THAT(t.Loaded(2), IsEmpty());
  StepDone broken = Transcript::Report(2, 3, {}, 2);
  broken.status = absl::AbortedError("what now?");
  EXPECT_THAT(t.Do(broken), IsEmpty());
  // It dials in again, with its experts, and says things before it is a member.
  EXPECT_THAT(t.Join(3, 100, 1), ElementsAre("load w3 rank 1"));
  broken.worker = WorkerId(3);
  EXPECT_THAT(t.Do(broken), IsEmpty());
  EXPECT_THAT(t.Do(Transcript::Report(3, 3, {}, 2)), IsEmpty());
  EXPECT_THAT(t.Ready(3, 2), IsEmpty());
  EXPECT_TRUE(t.Snapshot().serving);
  EXPECT_EQ(t.Snapshot().epoch, Epoch(2));
}

TEST(CoreRecovery, AFailedStepLosesNothing) {
  Transcript t(Transcript::Small(2));
  t.Serve();
  t.Arrive(MakeRequest(1, 2, 9));
  t.Done(1, 1, {{1, 2, 51}});
  t.Done(2, 1);
  // Far more often than any one request could bear if it were counted.
  for (int64_t epoch = 1; epoch <= 20; ++epoch) {
    t.now += absl::Seconds(1);  // at once again and again would be slowed down
    StepDone done = Transcript::Report(1, 2 * epoch, {}, epoch);
    done.status = absl::UnavailableError("rank 1 is gone");
    EXPECT_THAT(t.Do(done), ElementsAre(StartsWith("assign w1"), StartsWith("assign w2")));
    t.Ready(1, epoch + 1);
    EXPECT_THAT(First(t.Ready(2, epoch + 1)), HasSubstr("rewind 1 to 3 tokens 2 rows; work 1 [2,3)"));
  }
  EXPECT_EQ(t.Snapshot().recoveries.size(), 8u);
}

// Answers the assignments of the last event, and of those that follow.
void Connect(Transcript& t) {
  while (true) {
    std::vector<AssignRank> told;
    for (const Command& command : t.commands) {
      if (const auto* assign = std::get_if<AssignRank>(&command)) told.push_back(*assign);
    }
    if (told.empty()) return;
    for (const AssignRank& assign : told) t.Ready(assign.worker.value(), assign.epoch.value());
  }
}

// A unit of one worker, which dies; another one comes, number by number.
class CoreBackoff : public ::testing::Test {
 protected:
  CoreBackoff() : t_(Alone()) { t_.Serve(); }

  static CoreConfig Alone() {
    CoreConfig config = Transcript::Small();
    config.heartbeat_timeout = absl::Hours(1);
    return config;
  }
  void Replace() {
    t_.Lose(worker_);
    ComeBack();
  }
  void ComeBack() {
    t_.Join(++worker_);
    t_.Loaded(worker_);
    Connect(t_);
  }
  // The first step that the last event has planned; 0: none.
  int64_t Planned() const {
    for (const Command& command : t_.commands) {
      if (const auto* send = std::get_if<SendPlan>(&command)) return send->plan.step.value();
    }
    return 0;
  }
  // As many steps end, and then the worker's life.
  void DieAfter(int steps) {
    const int64_t first = Planned();
    ASSERT_GT(first, 0);
    for (int64_t step = first; step < first + steps; ++step) t_.Done(worker_, step);
    Replace();
  }

  Transcript t_;
  int64_t worker_ = 1;
};

TEST_F(CoreBackoff, ARequestThatKillsEveryWorkerIsTriedLaterAndLater) {
  Request request = MakeRequest(1, 2, 9);
  request.deadline = t_.now + absl::Minutes(6);
  t_.Arrive(request);
  for (int death = 1; death <= 2; ++death) DieAfter(0);
  for (const int wanted_ms : {250, 500, 1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000}) {
    EXPECT_EQ(t_.Snapshot().requests_running, 1);
    DieAfter(0);
    EXPECT_EQ(Planned(), 0);
    EXPECT_EQ(t_.Snapshot().requests_waiting, 1);
    EXPECT_EQ(t_.Snapshot().recoveries.back().resumed, t_.now);  // nothing is left to compute
    EXPECT_THAT(t_.TickAfter(absl::Milliseconds(wanted_ms - 1)), IsEmpty());
    EXPECT_THAT(t_.TickAfter(absl::Milliseconds(1)), Contains(HasSubstr("[10 11] prompt 2")));
  }
  DieAfter(0);
  EXPECT_THAT(t_.Do(DrainStarted{}), IsEmpty());
  EXPECT_THAT(t_.TickAfter(request.deadline - t_.now),
              ElementsAre("emit r1.0 @0 [] error DEADLINE_EXCEEDED: the request's deadline passed "
                          "while it ran; 13 workers died while they ran it, and it got no further",
                          "drained"));
}

TEST_F(CoreBackoff, ADeathIsCountedWhereverItsNewsFindTheSequence) {
  t_.Arrive(MakeRequest(1, 2, 1));  // leaves the batch as soon as its only chunk is planned
  t_.Arrive(MakeRequest(2, 2, 9));  // in a later step, whose plan the worker may not have seen
  for (int death = 1; death <= 3; ++death) {
    EXPECT_EQ(t_.Snapshot().requests_running, 2);
    StepDone failed = Transcript::Report(worker_, Planned(), {}, t_.Snapshot().epoch.value());
    failed.status = absl::UnavailableError("a peer is gone");
    t_.Do(failed);  // the epoch ends, and they are in the queue
    Replace();
  }
  EXPECT_EQ(t_.Snapshot().requests_waiting, 2);
}

TEST_F(CoreBackoff, RowsAreProgressIfTheyReachFurtherThanEver) {
  t_.Arrive(MakeRequest(1, 60, 2));  // 16 rows a step
  for (int death = 1; death <= 3; ++death) DieAfter(1);
  EXPECT_EQ(t_.Snapshot().requests_waiting, 1);
  t_.TickAfter(absl::Milliseconds(250));
  DieAfter(2);
  DieAfter(1);
  EXPECT_EQ(t_.Snapshot().requests_running, 1);
  DieAfter(2);
  EXPECT_EQ(t_.Snapshot().requests_waiting, 1);
  t_.TickAfter(absl::Milliseconds(250));
  EXPECT_EQ(t_.Snapshot().requests_running, 1);
}

TEST_F(CoreBackoff, OthersGoOnAndThoseHeldBackComeBackOneByOne) {
  Request request = MakeRequest(1, 2, 9);
  request.n = 2;
  t_.Arrive(request);
  for (int death = 1; death <= 3; ++death) DieAfter(0);
  EXPECT_EQ(t_.Snapshot().requests_waiting, 1);
  EXPECT_THAT(First(t_.Arrive(MakeRequest(2, 2, 1, 20))), HasSubstr("[20 21] prompt 2"));
  EXPECT_THAT(t_.Done(worker_, Planned(), {{7, 2, 50}}), ElementsAre("emit r2.0 @0 [50] length"));
  EXPECT_THAT(t_.TickAfter(absl::Milliseconds(200)), Contains(HasSubstr("new 8 [10 11] prompt 2")));
  EXPECT_EQ(t_.Snapshot().requests_running, 1);
  EXPECT_EQ(First(t_.Done(worker_, Planned(), {{8, 2, 51}})), "emit r1.1 @0 [51]");
  t_.Do(RequestCancelled{RequestId(1), 1});
  EXPECT_EQ(t_.Snapshot().requests_waiting, 1);
  EXPECT_THAT(t_.Do(RequestCancelled{RequestId(1), std::nullopt}),
              ElementsAre("emit r1.0 @0 [] cancelled"));
  EXPECT_THAT(t_.TickAfter(absl::Seconds(1)), IsEmpty());
  EXPECT_EQ(t_.Snapshot().requests_waiting, 0);
}

TEST(CoreRecovery, ARequestTooLargeForTheSurvivorsHoldsUpNobody) {
  Transcript t(Doubled(2));
  t.Join(1, 4);
  t.Join(2, 100);
  t.Ready(1, 1);
  t.Ready(2, 1);
  t.Lose(2);
  t.Ready(1, 2);
  EXPECT_THAT(t.Arrive(MakeRequest(1, 30, 2)), IsEmpty());  // fits into rank 1 alone
  EXPECT_THAT(First(t.Arrive(MakeRequest(2, 3, 2))), HasSubstr("plan w1 s1: new 1 [10 11 12]"));
  EXPECT_EQ(t.Snapshot().requests_waiting, 1);
  t.Join(3, 100);
  t.Done(1, 1, {{1, 3, 50}});
  t.Loaded(3);
  t.Done(1, 2, {{1, 4, 51}});
  t.Ready(1, 3);
  EXPECT_THAT(t.Ready(3, 3), Contains(HasSubstr("plan w3 s3: new 2 [10 11")));
}

TEST(CoreRecovery, OperatorsSeeWhatADeathWouldCost) {
  Transcript t(Doubled(3));
  t.Serve();
  ClusterSnapshot snapshot = t.Snapshot();
  EXPECT_EQ(snapshot.least_holders, 2);
  EXPECT_EQ(snapshot.most_holders, 2);
  for (const WorkerSnapshot& worker : snapshot.workers) {
    EXPECT_EQ(worker.death.experts_left_with_one, worker.experts);
    EXPECT_EQ(worker.death.experts_lost, 0);
    EXPECT_FALSE(worker.death.pauses);
  }
  t.Lose(3);
  t.Ready(1, 2);
  t.Ready(2, 2);
  snapshot = t.Snapshot();
  EXPECT_EQ(snapshot.least_holders, 1);
  EXPECT_EQ(snapshot.most_holders, 2);
  EXPECT_EQ(snapshot.workers[2].state, "gone");
  const DeathCost cost = snapshot.workers[0].death;
  EXPECT_EQ(cost.experts_left_with_one + cost.experts_lost, snapshot.workers[0].experts);
  EXPECT_GT(cost.experts_lost, 0);
  EXPECT_TRUE(cost.pauses);
}

TEST(CoreRecovery, EveryPhaseIsTimed) {
  Transcript t(Doubled(2));
  t.Serve();
  t.Arrive(MakeRequest(1, 2, 9));
  t.now += absl::Milliseconds(100);
  t.Do(Heartbeat{WorkerId(1)});
  t.Lose(2);
  const absl::Time lost = t.now;
  Recovery recovery = t.Snapshot().recoveries.at(0);
  EXPECT_EQ(recovery.epoch, Epoch(2));
  EXPECT_EQ(recovery.who, "worker 2 (rank 1, pid 102 on host)");
  EXPECT_EQ(recovery.why, "killed");
  EXPECT_EQ(recovery.heard, lost - absl::Milliseconds(100));
  EXPECT_EQ(recovery.suspected, lost);
  EXPECT_EQ(recovery.decided, lost);
  EXPECT_EQ(recovery.fenced, absl::InfiniteFuture());
  EXPECT_EQ(recovery.replayed, 1);
  t.now += absl::Milliseconds(3);
  t.Ready(1, 2);
  t.now += absl::Milliseconds(4);
  t.Done(1, 3, {{2, 2, 51}});
  recovery = t.Snapshot().recoveries.at(0);
  EXPECT_EQ(recovery.fenced, lost + absl::Milliseconds(3));
  EXPECT_EQ(recovery.resumed, lost + absl::Milliseconds(7));
}

TEST(CoreRecovery, TheSlowestRankIsNamed) {
  Transcript t(Transcript::Small(3));
  t.Serve();
  t.Arrive(MakeRequest(1, 2, 20));
  EXPECT_THAT(t.Snapshot().waiting.dispatch, IsEmpty());
  const auto run = [&](int step, int slow, absl::Duration wait) {
    for (int worker = 1; worker <= 3; ++worker) {
      std::vector<std::vector<int32_t>> tokens;
      if (worker == 1) tokens = {{1, 1 + step, 50}};
      StepDone done = Transcript::Report(worker, step, tokens);
      done.busy = absl::Milliseconds(10);
      done.waiting_dispatch.assign(3, absl::Milliseconds(1));
      done.waiting_combine.assign(3, absl::ZeroDuration());
      done.waiting_dispatch[worker - 1] = absl::ZeroDuration();
      if (worker != slow) done.waiting_combine[slow - 1] = wait;
      if (worker == 2) done.waiting_combine.resize(step % 2 == 0 ? 3 : 7);  // nonsense now and then
      t.Do(done);
    }
  };
  run(1, 2, absl::Milliseconds(8));
  const WaitingSnapshot waiting = t.Snapshot().waiting;
  EXPECT_FLOAT_EQ(waiting.combine[1 * 3 + 0], 0.008f);   // rank 0 waited for rank 1
  EXPECT_FLOAT_EQ(waiting.dispatch[2 * 3 + 0], 0.001f);
  EXPECT_FLOAT_EQ(waiting.waited_for[1], 0.009f);
  EXPECT_EQ(waiting.straggler, RankId(1));
  for (int step = 2; step <= 15; ++step) run(step, 3, absl::InfiniteDuration());
  EXPECT_EQ(t.Snapshot().waiting.straggler, RankId(2));
  EXPECT_LE(t.Snapshot().waiting.waited_for[2], 31.0f);  // bounded by the step's timeout
}

TEST(CoreRecovery, EquallyFastRanksAreNotNamed) {
  Transcript t(Transcript::Small(2));
  t.Serve();
  t.Arrive(MakeRequest(1, 2, 20));
  for (int worker = 1; worker <= 2; ++worker) {
    StepDone done = Transcript::Report(worker, 1);
    if (worker == 1) done.tokens.push_back(SampledToken{SequenceId(1), 2, 50, std::nullopt});
    done.busy = absl::Milliseconds(10);
    done.waiting_dispatch.assign(2, absl::Milliseconds(worker + 1));
    done.waiting_combine.assign(2, absl::ZeroDuration());
    t.Do(done);
  }
  EXPECT_THAT(t.Snapshot().waiting.waited_for, Not(IsEmpty()));
  EXPECT_EQ(t.Snapshot().waiting.straggler, std::nullopt);
}

TEST(CoreRecovery, ANewcomerTakesTheRankThatEndsThePause) {
  CoreConfig config = Transcript::Small(4);
  const std::vector<RankId> inner = {RankId(1), RankId(2)}, outer = {RankId(0), RankId(3)};
  auto placement = ExpertPlacement::Create(
      4, {{}, {inner, inner, inner, inner, inner, inner, inner, outer}});
  ASSERT_TRUE(placement.ok()) << placement.status();
  config.placement = std::make_shared<const ExpertPlacement>(*std::move(placement));
  Transcript t(config);
  t.Serve();
  for (const int worker : {1, 2, 3}) t.Lose(worker);  // ranks 0, 1, 2
  EXPECT_NE(t.Snapshot().paused, "");
  EXPECT_THAT(t.Join(5), ElementsAre("load w5 rank 1"));
  EXPECT_THAT(t.Do(WorkerLoaded{WorkerId(5)}),
              ElementsAre(StartsWith("assign w5 rank 1 epoch"), StartsWith("assign w4 rank 3 epoch")));
  EXPECT_EQ(t.Snapshot().paused, "");
  // Rank 2 would give second holders to seven experts, rank 0 to one.
  EXPECT_THAT(t.Join(6), ElementsAre("load w6 rank 2"));
}

// Four ranks, in turn on hosts "a" and "b"; experts 0 to 3 on ranks 0 and 1, the others on 2 and 3.
CoreConfig OnTwoHosts() {
  CoreConfig config = Transcript::Small(4);
  const std::vector<RankId> lower = {RankId(0), RankId(1)}, upper = {RankId(2), RankId(3)};
  auto placement =
      ExpertPlacement::Create(4, {{}, {lower, lower, lower, lower, upper, upper, upper, upper}});
  config.placement = std::make_shared<const ExpertPlacement>(*std::move(placement));
  return config;
}

Lines JoinOn(Transcript& t, const std::string& host, int64_t worker,
             std::optional<RankId> rank = std::nullopt) {
  return t.Do(WorkerJoined{WorkerId(worker), host, 1, 100, rank});
}

TEST(CoreRecovery, OperatorsSeeHoldersThatShareAHost) {
  Transcript t(OnTwoHosts());
  for (int r = 0; r < 4; ++r) JoinOn(t, r % 2 == 0 ? "a" : "b", r + 1, RankId(r));
  for (int worker = 1; worker <= 4; ++worker) t.Ready(worker, 1);
  EXPECT_EQ(t.Snapshot().least_holders, 2);
  EXPECT_EQ(t.Snapshot().least_hosts, 2);
  t.Lose(1);
  for (const int worker : {2, 3, 4}) t.Ready(worker, 2);
  EXPECT_EQ(t.Snapshot().least_holders, 1);
  EXPECT_EQ(t.Snapshot().least_hosts, 1);
  JoinOn(t, "b", 5);  // the only free rank, whose experts are on host "b"
  t.Loaded(5);
  for (const int worker : {2, 3, 4, 5}) t.Ready(worker, 3);
  EXPECT_EQ(t.Snapshot().least_holders, 2);
  EXPECT_EQ(t.Snapshot().least_hosts, 1);
}

TEST(CoreRecovery, ANewcomerTakesTheRankWhoseExpertsAreOnAnotherHost) {
  for (const auto& [host, rank] : {std::pair("a", 0), {"b", 3}}) {
    Transcript t(OnTwoHosts());
    for (int r = 0; r < 4; ++r) JoinOn(t, r % 2 == 0 ? "a" : "b", r + 1, RankId(r));
    for (int worker = 1; worker <= 4; ++worker) t.Ready(worker, 1);
    t.Lose(1);
    t.Lose(4);  // host "b" has the other holders of rank 0's experts, "a" those of rank 3's
    EXPECT_THAT(JoinOn(t, host, 5), ElementsAre(absl::StrCat("load w5 rank ", rank)));
  }
}

TEST(CoreRecovery, HoldersGoToDifferentHosts) {
  CoreConfig config = Doubled(4);
  config.redundant_experts = 2;
  Transcript t(config);
  for (int worker = 1; worker <= 4; ++worker) {
    t.Do(WorkerJoined{WorkerId(worker), worker % 2 == 0 ? "even" : "odd", 1, 100, std::nullopt});
  }
  const auto& assign = std::get<AssignRank>(t.commands.at(0));
  int copies = 0;
  for (int e = 0; e < 8; ++e) {
    const auto holders = assign.placement->Holders(1, ExpertId(e));
    copies += static_cast<int>(holders.size());
    bool odd = false;
    bool even = false;
    for (const RankId rank : holders) (rank.value() % 2 == 0 ? odd : even) = true;
    EXPECT_TRUE(odd && even) << "expert " << e;
  }
  EXPECT_EQ(copies, 18);
}

TEST(CoreRecovery, GroupsOfExpertsStayOnAHost) {
  CoreConfig config = Transcript::Small(4);
  config.redundant_experts = 4;
  config.n_group = 2;
  Transcript t(config);
  for (int worker = 1; worker <= 4; ++worker) {
    t.Do(WorkerJoined{WorkerId(worker), worker % 2 == 0 ? "even" : "odd", 1, 100, std::nullopt});
  }
  const auto& assign = std::get<AssignRank>(t.commands.at(0));
  for (const int group : {0, 1}) {
    std::set<int> common = {0, 1};
    for (int e = 4 * group; e < 4 * group + 4; ++e) {
      std::set<int> hosts;
      for (const RankId rank : assign.placement->Holders(1, ExpertId(e))) {
        hosts.insert(rank.value() % 2);
      }
      std::erase_if(common, [&](int host) { return !hosts.contains(host); });
    }
    EXPECT_THAT(common, Not(IsEmpty())) << "group " << group;
  }
}

TEST(CoreRecovery, TheHottestExpertIsCopied) {
  CoreConfig config = Transcript::Small(2);
  config.redundant_experts = 1;
  config.expert_load = {{}, {1, 1, 1, 1, 1, 9, 1, 1}};
  Transcript t(config);
  for (int worker = 1; worker <= 2; ++worker) {
    t.Do(WorkerJoined{WorkerId(worker), "host", 1, 100, std::nullopt});
  }
  const auto& assign = std::get<AssignRank>(t.commands.at(0));
  for (int e = 0; e < 8; ++e) {
    EXPECT_EQ(assign.placement->Holders(1, ExpertId(e)).size(), e == 5 ? 2 : 1) << "expert " << e;
  }
}

TEST(CoreRecovery, TokensOfExpertsAreCountedAsWorkersSay) {
  Transcript t(Transcript::Small(2));
  for (int worker = 1; worker <= 2; ++worker) {
    t.Do(WorkerJoined{WorkerId(worker), "host", 1, 100, std::nullopt});
  }
  t.Do(ExpertTokens{WorkerId(1), {{}, {1, 0, 0, 0, 0, 0, 0, 7}}});
  t.Do(ExpertTokens{WorkerId(2), {{}, {1, 0, 0, 5, 0, 0, 0, 0}}});
  const std::vector<std::vector<int64_t>> counted = {{}, {2, 0, 0, 5, 0, 0, 0, 7}};
  EXPECT_EQ(t.Snapshot().expert_tokens, counted);
  // Whatever does not fit the model, cannot be, or comes from nobody.
  t.Do(ExpertTokens{WorkerId(1), {{}, {1, 1, 1, 1, 1, 1, 1}}});
  t.Do(ExpertTokens{WorkerId(1), {{1, 1, 1, 1, 1, 1, 1, 1}}});
  t.Do(ExpertTokens{WorkerId(1), {{1}, {1, 1, 1, 1, 1, 1, 1, 1}}});
  t.Do(ExpertTokens{WorkerId(1), {{}, {1, 1, 1, 1, 1, 1, 1, -1}}});
  t.Do(ExpertTokens{WorkerId(3), {{}, {1, 1, 1, 1, 1, 1, 1, 1}}});
  EXPECT_EQ(t.Snapshot().expert_tokens, counted);
}

}  // namespace
}  // namespace shoal::testing
