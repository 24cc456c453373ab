// SPDX-License-Identifier: Apache-2.0
// Shows how the core forms the unit and what it does when workers fail, as transcripts of commands
// (core_transcript.h): ranks and epochs, standbys, heartbeats, hung steps, errors of exchanges and
// devices, and what becomes of requests and of caches.
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/core_transcript.h"

namespace shoal::testing {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

std::string StateOf(const Transcript& t, int rank) { return t.Snapshot().workers[rank].state; }

TEST(CoreMembership, ServingBeginsWhenAllAreReady) {
  Transcript t(Transcript::Small(2));
  EXPECT_THAT(t.Arrive(MakeRequest(1, 2, 1)), IsEmpty());  // queued meanwhile
  EXPECT_THAT(t.Join(5), IsEmpty());
  EXPECT_EQ(StateOf(t, 0), "loading");
  EXPECT_THAT(t.Join(3), ElementsAre("assign w5 rank 0 epoch 1", "assign w3 rank 1 epoch 1"));
  const auto& assign = std::get<AssignRank>(t.commands[1]);
  EXPECT_THAT(*assign.members, ElementsAre(WorkerId(5), WorkerId(3)));
  EXPECT_EQ(assign.placement->world_size(), 2);
  EXPECT_THAT(t.Ready(5, 1), IsEmpty());
  EXPECT_THAT(t.Ready(5, 1), IsEmpty());  // counts once
  EXPECT_FALSE(t.Snapshot().serving);
  EXPECT_EQ(t.Ready(3, 1).size(), 2u);  // the queued request's first step
  EXPECT_TRUE(t.Snapshot().serving);
  EXPECT_EQ(StateOf(t, 1), "serving");
  EXPECT_EQ(t.Snapshot().workers[0].experts, 4);
}

TEST(CoreMembership, ReadinessForAnotherEpochOrByAStrangerCountsNothing) {
  Transcript t(Transcript::Small());
  t.Join(1);
  t.Ready(1, 0);
  t.Ready(1, 2);
  t.Ready(9, 1);
  EXPECT_FALSE(t.Snapshot().serving);
  t.Ready(1, 1);
  EXPECT_TRUE(t.Snapshot().serving);
}

TEST(CoreMembership, WantedRanksAreGivenAndHeld) {
  Transcript t(Transcript::Small(4));
  t.Join(1);
  t.Join(2, 100, 0);  // moves the first aside
  t.Join(3, 100, 0);  // comes too late for it, and takes another
  EXPECT_EQ(t.Snapshot().workers[2].worker, WorkerId(3));
  EXPECT_THAT(t.Join(4, 100, 4),
              ElementsAre("evict w4: INVALID_ARGUMENT: the worker wants rank 4 of 4"));
  EXPECT_THAT(First(t.Join(5, 0)),
              StartsWith("evict w5: INVALID_ARGUMENT: the worker offers 0 cache"));
  EXPECT_THAT(t.Join(6, 100, 3),
              ElementsAre("assign w2 rank 0 epoch 1", "assign w1 rank 1 epoch 1",
                          "assign w3 rank 2 epoch 1", "assign w6 rank 3 epoch 1"));
}

TEST(CoreMembership, AFixedRankIsGivenOrRefused) {
  Transcript t(Transcript::Small(2));
  t.Join(1, 100, 0);
  t.Join(2, 100, 0, true);  // wishes give way to it
  EXPECT_EQ(t.Snapshot().workers[1].worker, WorkerId(1));
  EXPECT_THAT(
      t.Join(3, 100, 0, true),
      ElementsAre("evict w3: ALREADY_EXISTS: rank 0 is held by worker 2 (rank 0, pid 102 on "
                  "host)"));
  EXPECT_THAT(t.Join(4, 100, 1, true),  // too late: the last rank was announced
              ElementsAre(StartsWith("evict w4: ALREADY_EXISTS: rank 1 is held by worker 1")));
}

TEST(CoreMembership, EpochsGoOnWhereTheWorkersWereUnderAnotherCoordinator) {
  Transcript t(Transcript::Small(2));
  WorkerJoined joined{WorkerId(1), "host", 101, 100, std::nullopt, false, Epoch(7)};
  t.Do(joined);
  EXPECT_THAT(t.Join(2), ElementsAre("assign w1 rank 0 epoch 8", "assign w2 rank 1 epoch 8"));
  joined.worker = WorkerId(3);
  joined.last_epoch = Epoch(20);
  EXPECT_THAT(t.Do(joined), IsEmpty());  // a standby changes nothing yet
  EXPECT_EQ(t.Snapshot().epoch, Epoch(8));
  EXPECT_THAT(t.Do(WorkerLost{WorkerId(1), "gone"}),
              ElementsAre("assign w3 rank 0 epoch 21", "assign w2 rank 1 epoch 21"));
}

// What a stranger says of epochs counts when it takes part in one, and is forgotten when it leaves.
TEST(CoreMembership, NobodysEpochsCountBeforeItTakesPart) {
  CoreConfig config = Transcript::Small(2);
  config.holders = 2;
  Transcript t(config);
  t.Serve();
  WorkerJoined stranger{WorkerId(7), "host", 101, 100, std::nullopt, false, Epoch(1'000'000)};
  EXPECT_THAT(t.Do(stranger), IsEmpty());
  EXPECT_THAT(t.Lose(7), IsEmpty());
  EXPECT_THAT(t.Lose(1), ElementsAre("assign w2 rank 1 epoch 2 without 0"));
  stranger.worker = WorkerId(8);
  EXPECT_THAT(t.Do(stranger), ElementsAre("load w8 rank 0"));
  EXPECT_THAT(t.Lose(8), IsEmpty());
  EXPECT_THAT(t.Join(9), ElementsAre("load w9 rank 0"));
  t.Ready(2, 2);
  EXPECT_THAT(t.Loaded(9), ElementsAre("assign w9 rank 0 epoch 3", "assign w2 rank 1 epoch 3"));
}

TEST(CoreMembership, AStandbyLoadsForTheRankOfTheLost) {
  Transcript t(Transcript::Small(2));
  t.Serve();
  EXPECT_THAT(t.Join(7), IsEmpty());
  EXPECT_THAT(t.Do(WorkerLost{WorkerId(1), "connection closed"}), ElementsAre("load w7 rank 0"));
  EXPECT_EQ(StateOf(t, 0), "loading");
  EXPECT_EQ(t.Snapshot().paused, "layer 1 expert 0: no holder is left of ranks 0");
  EXPECT_FALSE(t.Snapshot().serving);
  EXPECT_THAT(t.Loaded(7), ElementsAre("assign w7 rank 0 epoch 2", "assign w2 rank 1 epoch 2"));
  EXPECT_EQ(t.Snapshot().epoch, Epoch(2));
  EXPECT_EQ(t.Snapshot().paused, "");
}

TEST(CoreMembership, StandbysAreBounded) {
  Transcript t(Transcript::Small());
  Lines last;
  for (int w = 1; w <= 19; ++w) last = t.Join(w);
  EXPECT_THAT(last, ElementsAre(StartsWith("evict w19: RESOURCE_EXHAUSTED: 18 workers are here")));
}

TEST(CoreMembership, ALossWhileLoadingBeginsAnew) {
  Transcript t(Transcript::Small(2));
  t.Join(1);
  t.Join(2);
  t.Ready(1, 1);
  EXPECT_THAT(t.Do(WorkerLost{WorkerId(2), "exit 1"}), IsEmpty());
  EXPECT_THAT(t.Do(WorkerLost{WorkerId(1), "exit 1"}), IsEmpty());
  t.Join(3);
  EXPECT_THAT(t.Join(4), ElementsAre("assign w3 rank 0 epoch 2", "assign w4 rank 1 epoch 2"));
}

TEST(CoreMembership, AnExchangeErrorReassignsEverybody) {
  Transcript t(Transcript::Small(2));
  t.Serve();
  t.Arrive(MakeRequest(1, 2, 9));
  StepDone done = Transcript::Report(1, 1);
  done.status = absl::DeadlineExceededError("layer 3: nothing from rank 1");
  EXPECT_THAT(t.Do(done), ElementsAre("assign w1 rank 0 epoch 2", "assign w2 rank 1 epoch 2"));
  const Recovery recovery = t.Snapshot().recoveries.at(0);
  EXPECT_EQ(recovery.cause, Recovery::Cause::kStep);
  EXPECT_EQ(recovery.who, "worker 1 (rank 0, pid 101 on host)");
  EXPECT_EQ(recovery.why, "step 1: DEADLINE_EXCEEDED: layer 3: nothing from rank 1");
}

TEST(CoreMembership, ABrokenWorkerIsEvicted) {
  Transcript t(Transcript::Small(2));
  t.Serve();
  t.Arrive(MakeRequest(1, 2, 9));
  StepDone done = Transcript::Report(2, 1);
  done.status = absl::InternalError("device lost");
  EXPECT_THAT(t.Do(done), ElementsAre("evict w2: INTERNAL: device lost"));
  EXPECT_EQ(StateOf(t, 1), "gone");
  EXPECT_EQ(t.Snapshot().recoveries.at(0).why, "device lost");
}

TEST(CoreMembership, ASilentWorkerIsLostWithinASecond) {
  Transcript t(Transcript::Small(2));
  t.Serve();
  t.Arrive(MakeRequest(1, 2, 9));
  const absl::Time begin = t.now;
  Lines lines;
  while (lines.empty() && t.now - begin < absl::Seconds(5)) {
    t.Do(Heartbeat{WorkerId(2)});
    lines = t.TickAfter(absl::Milliseconds(50));
  }
  EXPECT_LE(t.now - begin, absl::Milliseconds(450));
  EXPECT_THAT(lines, ElementsAre("evict w1: UNAVAILABLE: no heartbeat for 400ms"));
}

TEST(CoreMembership, ACoordinatorThatStoodStillBlamesNobody) {
  Transcript t(Transcript::Small(2));
  t.Serve();
  EXPECT_THAT(t.TickAfter(absl::Seconds(10)), IsEmpty());
  // The heartbeats that piled up are read before the next Tick.
  t.Do(Heartbeat{WorkerId(1)});
  t.Do(Heartbeat{WorkerId(2)});
  EXPECT_THAT(t.TickAfter(absl::Milliseconds(50)), IsEmpty());
  EXPECT_TRUE(t.Snapshot().serving);
}

TEST(CoreMembership, AClockThatJumpsBlamesNobody) {
  Transcript t(Transcript::Small(2));
  t.Serve();
  EXPECT_THAT(t.TickAfter(absl::Hours(1'000'000)), IsEmpty());
  for (const absl::Duration jump : {-absl::Hours(2'000'000), absl::Hours(3'000'000)}) {
    t.now += jump;
    t.Do(Heartbeat{WorkerId(1)});
    t.Do(Heartbeat{WorkerId(2)});
    EXPECT_THAT(t.TickAfter(absl::Milliseconds(50)), IsEmpty());
    EXPECT_THAT(t.TickAfter(absl::Milliseconds(50)), IsEmpty());
  }
  EXPECT_TRUE(t.Snapshot().serving);
}

// Ticks with heartbeats of all `workers`, until something is said.
Lines WaitFor(Transcript& t, std::initializer_list<int> workers, absl::Duration at_most) {
  const absl::Time end = t.now + at_most;
  while (t.now < end) {
    for (int worker : workers) t.Do(Heartbeat{WorkerId(worker)});
    if (Lines lines = t.TickAfter(absl::Milliseconds(100)); !lines.empty()) return lines;
  }
  return {};
}

TEST(CoreMembership, AWorkerThatOnlySendsHeartbeatsIsLostInTheEnd) {
  Transcript t(Transcript::Small(2));
  t.Serve();
  t.Arrive(MakeRequest(1, 2, 9));
  t.Done(1, 1, {{1, 2, 50}});
  const absl::Time begin = t.now;
  const Lines lines = WaitFor(t, {1, 2}, absl::Minutes(5));
  EXPECT_THAT(
      lines, ElementsAre(StartsWith("evict w2: DEADLINE_EXCEEDED: no report of step 1 within 31")));
  EXPECT_LT(t.now - begin, absl::Seconds(32));  // step_timeout and a second
}

TEST(CoreMembership, AfterAFailedStepTheMuteOneIsSuspectedFirst) {
  Transcript t(Transcript::Small(3));
  t.Serve();
  t.Arrive(MakeRequest(1, 2, 9));
  StepDone done = Transcript::Report(1, 1);
  done.status = absl::DeadlineExceededError("nothing from rank 2");
  t.Do(done);
  done.worker = WorkerId(2);
  t.Do(done);  // late, of the old epoch, but it lives
  // Nobody gets ready, since worker 3 does not answer anybody.
  const Lines lines = WaitFor(t, {1, 2, 3}, absl::Minutes(5));
  EXPECT_THAT(lines, ElementsAre("evict w3: DEADLINE_EXCEEDED: not ready for epoch 2 in time"));
}

TEST(CoreMembership, WhoWaitsForAHolderIsNotOverdue) {
  CoreConfig config = Transcript::Small(4);
  config.holders = 2;
  Transcript t(config);
  t.Serve();
  // One dies, and before the others are connected again so do the other holders of some expert.
  t.Lose(4);
  for (int w = 3; w > 1 && t.Snapshot().paused.empty(); --w) t.Lose(w);
  ASSERT_THAT(t.Snapshot().paused, Not(IsEmpty()));
  EXPECT_THAT(WaitFor(t, {1, 2, 3}, absl::Minutes(5)), IsEmpty());
}

TEST(CoreMembership, LoadingMayTakeItsTimeButNotForever) {
  CoreConfig config = Transcript::Small(2);
  config.loading_timeout = absl::Minutes(2);
  Transcript t(config);
  t.Join(1);
  t.Join(2);
  t.Ready(1, 1);
  const absl::Time begin = t.now;
  EXPECT_THAT(WaitFor(t, {1, 2}, absl::Minutes(5)),
              ElementsAre("evict w2: DEADLINE_EXCEEDED: not ready for epoch 1 in time"));
  EXPECT_GE(t.now - begin, absl::Minutes(2));
}

TEST(CoreMembership, ASurvivorsCacheKeepsWhatCommittedStepsWrote) {
  Transcript t(Transcript::Small(2));
  t.Serve();
  // Blocks 0 and 1 are written by a committed step; rows 8 to 11 were in flight.
  t.Arrive(MakeRequest(1, 9, 20));
  for (int step = 1; step <= 3; ++step) {
    t.Done(1, step, {{1, 8 + step, 60 + step}});
    t.Done(2, step);
  }
  t.Lose(2);
  t.Join(3);
  t.Loaded(3);
  Request request = MakeRequest(2, 9, 1);
  for (int32_t token : {61, 62, 63, 64}) request.prompt.push_back(token);
  t.Arrive(request);
  t.Ready(1, 2);
  t.Do(RequestCancelled{RequestId(1), std::nullopt});
  EXPECT_THAT(First(t.Ready(3, 2)),
              AllOf(HasSubstr("plan w1 s6: new 2"), HasSubstr("work 2 [8,13) sample blocks 0 1")));
}

TEST(CoreMembership, AReplacementHasNoCacheAtAll) {
  Transcript t(Transcript::Small());
  t.Serve();
  t.Arrive(MakeRequest(1, 9, 1));
  t.Done(1, 1, {{1, 9, 50}});
  t.Lose(1);
  EXPECT_THAT(t.Join(2), ElementsAre("load w2 rank 0"));
  EXPECT_THAT(t.Loaded(2), ElementsAre("assign w2 rank 0 epoch 2"));
  t.Ready(2, 2);
  EXPECT_THAT(First(t.Arrive(MakeRequest(2, 9, 1))), HasSubstr("work 2 [0,9) sample"));
}

}  // namespace
}  // namespace shoal::testing
