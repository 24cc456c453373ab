// SPDX-License-Identifier: Apache-2.0
// Shows what becomes of a unit whose workers are all alive and cannot all reach each other: who is
// in the way is left out, stays, and enters again later; nobody is left out without whom the unit
// would pause.
#include <algorithm>

#include "absl/strings/match.h"
#include "coordinator/core/accusations.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/core_transcript.h"

namespace shoal::testing {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Matches;
using ::testing::Not;
using ::testing::SizeIs;
using ::testing::StartsWith;

class CoreReach : public ::testing::Test {
 protected:
  static CoreConfig Config(int holders) {
    CoreConfig config = Transcript::Small(4);
    config.holders = holders;
    return config;
  }
  // All serve, then a step fails and epoch 2 is announced.
  explicit CoreReach(const CoreConfig& config = Config(2)) : t(config) {
    t.Serve();
    t.Arrive(MakeRequest(1, 2, 9));
    for (const int w : {2, 3, 4}) t.Done(w, 1);
    t.Done(1, 1, {{1, 2, 20}});
    StepDone done = Transcript::Report(1, 2);
    done.status = absl::DeadlineExceededError("nothing from rank 1");
    EXPECT_EQ(t.Do(done).size(), 4u);
  }

  Lines Fail(int64_t worker, int64_t epoch, const std::vector<int>& unreached) {
    ConnectFailed failed{WorkerId(worker), Epoch(epoch), absl::DeadlineExceededError("no way"), {}};
    for (const int rank : unreached) failed.unreached.push_back(RankId(rank));
    return t.Do(failed);
  }
  // Everybody's heart beats for so long; the first commands that come, if any.
  Lines Wait(absl::Duration time) {
    for (const absl::Time end = t.now + time; t.now < end;) {
      for (int w = 1; w <= 6; ++w) t.Do(Heartbeat{WorkerId(w)});
      Lines lines = t.TickAfter(absl::Milliseconds(50));
      if (!lines.empty()) return lines;
    }
    return {};
  }
  // Nobody reaches worker 2 (rank 1), and it reaches nobody.
  void LeaveOutTheSecond(int64_t epoch) {
    Fail(1, epoch, {1});
    Fail(2, epoch, {0, 2, 3});
    Fail(3, epoch, {1});
    Fail(4, epoch, {1});
    const std::string end = absl::StrCat(" epoch ", epoch + 1, " without 1");
    EXPECT_THAT(
        Wait(absl::Milliseconds(50)),
        ElementsAre("assign w1 rank 0" + end, "assign w3 rank 2" + end, "assign w4 rank 3" + end));
    for (const int w : {1, 3, 4}) t.Ready(w, epoch + 1);
    EXPECT_TRUE(t.Snapshot().serving);
    EXPECT_EQ(t.Snapshot().workers[1].state, "left out");
  }

  Transcript t;
};

class CoreReachOneHolder : public CoreReach {
 protected:
  CoreReachOneHolder() : CoreReach(Config(1)) {}
};

class CoreReachBriefSteps : public CoreReach {
 protected:
  static CoreConfig Brief() {
    CoreConfig config = Config(2);
    config.step_timeout = absl::Milliseconds(500);
    return config;
  }
  CoreReachBriefSteps() : CoreReach(Brief()) {}
};

TEST_F(CoreReach, WhomNobodyReachesIsLeftOutAndComesAgain) {
  t.Do(RequestCancelled{RequestId(1), std::nullopt});
  LeaveOutTheSecond(2);
  const Recovery recovery = t.Snapshot().recoveries.back();
  EXPECT_EQ(recovery.cause, Recovery::Cause::kConnect);
  EXPECT_EQ(recovery.who, "worker 2 (rank 1, pid 102 on host)");
  EXPECT_EQ(recovery.why, "no way");
  EXPECT_EQ(t.Snapshot().least_holders, 1);

  // It enters again, cannot, and its next leave is three times as long.
  absl::Time begin = t.now;
  EXPECT_THAT(Wait(absl::Seconds(20)), Contains("assign w2 rank 1 epoch 4"));
  EXPECT_EQ(t.now - begin, absl::Milliseconds(5050));  // 5 s, 10 ms per rank, and the next Tick
  EXPECT_EQ(t.Snapshot().recoveries.back().cause, Recovery::Cause::kEntry);
  LeaveOutTheSecond(4);
  begin = t.now;
  EXPECT_THAT(Wait(absl::Seconds(20)), Contains("assign w2 rank 1 epoch 6"));
  EXPECT_EQ(t.now - begin, absl::Milliseconds(15150));
  for (const int w : {1, 2, 3, 4}) t.Ready(w, 6);
  EXPECT_EQ(t.Snapshot().workers[1].state, "serving");
  EXPECT_EQ(t.Snapshot().least_holders, 2);
}

TEST_F(CoreReach, ACutLinkCostsOneOfItsEnds) {
  t.Ready(2, 2);
  t.Ready(4, 2);
  EXPECT_THAT(Fail(1, 2, {2}), IsEmpty());
  EXPECT_THAT(Wait(absl::Milliseconds(100)), IsEmpty());  // the other end may have something to say
  EXPECT_THAT(Fail(3, 2, {0}), IsEmpty());
  EXPECT_THAT(Wait(absl::Milliseconds(50)), ElementsAre("assign w1 rank 0 epoch 3 without 2",
                                                        "assign w2 rank 1 epoch 3 without 2",
                                                        "assign w4 rank 3 epoch 3 without 2"));
}

TEST_F(CoreReach, WhoSaysNothingIsWaitedForABit) {
  Fail(1, 2, {1});
  const absl::Time begin = t.now;
  EXPECT_THAT(Wait(absl::Seconds(5)), Contains(HasSubstr("epoch 3 without 1")));
  EXPECT_EQ(t.now - begin, absl::Milliseconds(300));
}

TEST_F(CoreReach, WhoHangsIsEvictedAfterItsLeave) {
  for (const int w : {1, 3, 4}) Fail(w, 2, {1});
  EXPECT_THAT(Wait(absl::Seconds(2)), Contains(HasSubstr("epoch 3 without 1")));
  for (const int w : {1, 3, 4}) t.Ready(w, 3);
  Lines lines;
  for (const absl::Time begin = t.now; lines.empty() && t.now - begin < absl::Seconds(9);) {
    lines = Wait(absl::Milliseconds(50));
  }
  EXPECT_THAT(lines,
              ElementsAre("evict w2: DEADLINE_EXCEEDED: beats, but has said nothing since it "
                          "was asked to connect"));
  EXPECT_EQ(t.Snapshot().epoch, Epoch(3));
}

TEST_F(CoreReach, ReportsThatCannotBeAccuseTheirSender) {
  Fail(1, 1, {1});  // of another epoch
  Fail(9, 2, {1});  // of nobody
  EXPECT_THAT(Wait(absl::Seconds(2)), IsEmpty());
  for (const int w : {1, 2, 4}) t.Ready(w, 2);
  Fail(1, 2, {3});  // it was ready
  Fail(3, 2, {2, -1, 4, 1 << 30});
  EXPECT_THAT(Wait(absl::Milliseconds(50)), Contains("assign w1 rank 0 epoch 3 without 2"));
}

TEST_F(CoreReach, WhatRanThereIsComputedElsewhere) {
  EXPECT_EQ(t.Snapshot().workers[0].running_sequences, 0);  // between epochs
  Fail(1, 2, {1, 2, 3});
  for (const int w : {2, 3, 4}) Fail(w, 2, {0});
  EXPECT_THAT(Wait(absl::Milliseconds(50)), Contains("assign w2 rank 1 epoch 3 without 0"));
  EXPECT_EQ(t.Snapshot().recoveries.back().replayed, 1);
  t.Ready(2, 3);
  t.Ready(3, 3);
  EXPECT_THAT(t.Ready(4, 3), Contains(HasSubstr("[10 11 20] prompt 2")));
}

TEST_F(CoreReachBriefSteps, NobodyIsBlamedBeforeItCanSayWhomItDoesNotReach) {
  t.Ready(1, 2);
  t.Ready(4, 2);
  EXPECT_THAT(Wait(absl::Milliseconds(3500)), IsEmpty());
  Fail(2, 2, {2});
  Fail(3, 2, {1});
  EXPECT_THAT(Wait(absl::Milliseconds(50)), Contains("assign w1 rank 0 epoch 3 without 2"));
  EXPECT_THAT(Wait(absl::Milliseconds(3500)), IsEmpty());
  EXPECT_THAT(Wait(absl::Seconds(1)), Contains(StartsWith("evict")));
}

TEST_F(CoreReachOneHolder, NobodyIsLeftOutWithoutWhomTheUnitWouldPause) {
  Fail(1, 2, {1});
  Fail(2, 2, {0});
  t.Ready(3, 2);
  t.Ready(4, 2);
  EXPECT_THAT(Wait(absl::Milliseconds(50)),
              ElementsAre("assign w1 rank 0 epoch 3", "assign w2 rank 1 epoch 3",
                          "assign w3 rank 2 epoch 3", "assign w4 rank 3 epoch 3"));
  EXPECT_EQ(t.Snapshot().recoveries.back().who, "worker 2 (rank 1, pid 102 on host)");
  // As often as it is in vain: one change, and no time of serving.
  t.now += absl::Seconds(2);
  for (int w = 1; w <= 4; ++w) t.Do(Heartbeat{WorkerId(w)});
  Fail(1, 3, {1});
  Fail(2, 3, {0});
  t.Ready(3, 3);
  t.Ready(4, 3);
  EXPECT_THAT(Wait(absl::Milliseconds(50)), Contains("assign w1 rank 0 epoch 4"));
  EXPECT_EQ(t.Snapshot().recoveries.size(), 2u);
  EXPECT_EQ(t.Snapshot().recoveries.back().epoch, Epoch(4));
  EXPECT_FALSE(t.Snapshot().serving);
}

TEST_F(CoreReach, WhoIsNeededComesBackBeforeItsLeaveIsOver) {
  LeaveOutTheSecond(2);
  const std::vector<WorkerSnapshot> workers = t.Snapshot().workers;
  const auto other = std::find_if(workers.begin(), workers.end(), [](const WorkerSnapshot& worker) {
    return worker.death.experts_lost > 0;
  });
  ASSERT_NE(other, workers.end());
  EXPECT_THAT(t.Do(WorkerLost{other->worker, "killed"}),
              Contains(StartsWith("assign w2 rank 1 epoch 4")));
}

TEST_F(CoreReach, AStandbyTakesTheRankOfWhomNobodyReachesTheSecondTime) {
  t.Do(RequestCancelled{RequestId(1), std::nullopt});
  t.Join(5);
  LeaveOutTheSecond(2);
  EXPECT_THAT(Wait(absl::Seconds(6)), Contains("assign w2 rank 1 epoch 4"));
  Fail(1, 4, {1});
  Fail(2, 4, {0, 2, 3});
  Fail(3, 4, {1});
  Fail(4, 4, {1});
  const Lines lines = Wait(absl::Milliseconds(50));
  EXPECT_THAT(lines, Contains(StartsWith("evict w2: UNAVAILABLE: others cannot reach it")));
  EXPECT_THAT(lines, Contains("load w5 rank 1"));
  EXPECT_THAT(lines, Contains("assign w1 rank 0 epoch 5 without 1"));
}

TEST_F(CoreReachOneHolder, AStandbyTakesARankThatIsNeededAfterAWhile) {
  t.Join(5);
  t.Join(6);
  const absl::Time begin = t.now;
  int64_t epoch = 2;
  for (Lines lines; t.now - begin < absl::Minutes(1); ++epoch) {
    EXPECT_THAT(Wait(absl::Seconds(3)), IsEmpty());
    Fail(1, epoch, {1});
    Fail(3, epoch, {1});
    Fail(4, epoch, {1});
    Fail(2, epoch, {0, 2, 3});
    lines = Wait(absl::Seconds(2));
    if (!Matches(Contains("load w5 rank 1"))(lines)) continue;
    EXPECT_THAT(lines, ElementsAre(StartsWith("evict w2: UNAVAILABLE"), "load w5 rank 1"));
    break;
  }
  EXPECT_GT(t.now - begin, absl::Seconds(15));
  EXPECT_LT(t.now - begin, absl::Seconds(25));
  EXPECT_THAT(t.Loaded(5), Contains(absl::StrCat("assign w5 rank 1 epoch ", epoch + 1)));
}

TEST_F(CoreReachOneHolder, WhoHangsAndIsNeededIsEvicted) {
  const absl::Time begin = t.now;
  int64_t epoch = 2;
  Lines lines;
  for (; t.now - begin < absl::Minutes(2); ++epoch) {
    lines = Wait(absl::Seconds(3));
    if (!lines.empty()) break;
    for (const int w : {1, 3, 4}) Fail(w, epoch, {1});
    lines = Wait(absl::Seconds(2));
    if (lines.size() != 4) break;
  }
  EXPECT_THAT(lines, ElementsAre(absl::StrCat("evict w2: DEADLINE_EXCEEDED: not ready for epoch ",
                                              epoch, " in time")));
  EXPECT_LT(t.now - begin, absl::Seconds(35));
}

// An epoch that nobody can connect, and says so at once.
TEST_F(CoreReachOneHolder, EpochsInVainAreFarApart) {
  const absl::Time begin = t.now;
  int64_t epoch = 2;
  for (; t.now - begin < absl::Seconds(20); ++epoch) {
    for (int w = 1; w <= 4; ++w) Fail(w, epoch, {});
    ASSERT_THAT(Wait(absl::Seconds(2)), SizeIs(4));
  }
  EXPECT_LT(epoch, 30);
  for (int w = 1; w <= 4; ++w) t.Ready(w, epoch);
  EXPECT_TRUE(t.Snapshot().serving);
}

TEST_F(CoreReach, WhoDialsInAgainIsNotTriedSooner) {
  t.Do(RequestCancelled{RequestId(1), std::nullopt});
  LeaveOutTheSecond(2);
  const absl::Time begin = t.now;
  t.Lose(2);
  EXPECT_THAT(t.Join(2, 100, 1), ElementsAre("load w2 rank 1"));
  EXPECT_THAT(t.Loaded(2), IsEmpty());
  EXPECT_EQ(t.Snapshot().workers[1].state, "left out");
  EXPECT_THAT(Wait(absl::Seconds(20)), Contains("assign w2 rank 1 epoch 4"));
  EXPECT_GT(t.now - begin, absl::Seconds(5));
  // Nor does a standby take a rank that it could not fill before.
  LeaveOutTheSecond(4);
  t.Join(5);
  EXPECT_THAT(Wait(absl::Seconds(20)), Contains("assign w2 rank 1 epoch 6"));
  for (const int w : {1, 3, 4}) Fail(w, 6, {1});
  Fail(2, 6, {0, 2, 3});
  EXPECT_THAT(Wait(absl::Milliseconds(50)), Contains("load w5 rank 1"));
  for (const int w : {1, 3, 4}) t.Ready(w, 7);
  t.Join(2, 100, 1);
  EXPECT_THAT(t.Loaded(5), Contains("assign w5 rank 1 epoch 8"));
}

// In containers all have the same pid, and perhaps the same host.
TEST_F(CoreReach, AnotherProcessOfThatHostAndPidEntersAtOnce) {
  t.Do(RequestCancelled{RequestId(1), std::nullopt});
  LeaveOutTheSecond(2);
  t.Lose(2);
  WorkerJoined another{WorkerId(5), "host", 102, 100, RankId(1)};
  another.boot_nonce = 105;
  EXPECT_THAT(t.Do(another), ElementsAre("load w5 rank 1"));
  EXPECT_THAT(t.Loaded(5), Contains("assign w5 rank 1 epoch 4"));
}

TEST_F(CoreReach, WhoIsLostTimeAndAgainEntersLater) {
  t.Do(RequestCancelled{RequestId(1), std::nullopt});
  for (const int w : {1, 2, 3, 4}) t.Ready(w, 2);
  absl::Time begin;
  std::vector<absl::Duration> waits;
  for (int round = 0; round < 4; ++round) {
    Lines lines = t.Lose(2);
    int64_t epoch = t.Snapshot().epoch.value();
    EXPECT_THAT(lines, SizeIs(3));
    for (const int w : {1, 3, 4}) t.Ready(w, epoch);
    begin = t.now;
    t.Join(2, 100, 1);
    lines = t.Loaded(2);
    if (lines.empty()) lines = Wait(absl::Seconds(10));
    EXPECT_THAT(lines, SizeIs(4));
    waits.push_back(t.now - begin);
    for (const int w : {1, 2, 3, 4}) t.Ready(w, epoch + 1);
    EXPECT_TRUE(t.Snapshot().serving);
  }
  EXPECT_EQ(waits[0], absl::ZeroDuration());
  EXPECT_EQ(waits[1], absl::Milliseconds(1000));
  EXPECT_EQ(waits[2], absl::Milliseconds(2000));
  EXPECT_EQ(waits[3], absl::Milliseconds(4000));
}

// Who is needed and whom nobody reaches stops all, but not until the end of another one's leave.
TEST_F(CoreReach, WhoIsOnLeaveComesBackWhenAnotherIsOutOfReach) {
  t.Do(RequestCancelled{RequestId(1), std::nullopt});
  int64_t epoch = 2;
  for (int leave = 0; leave < 3; ++leave) {  // the next one is 135 s long
    LeaveOutTheSecond(epoch);
    EXPECT_THAT(Wait(absl::Seconds(400)), Contains(HasSubstr("assign w2 rank 1")));
    epoch += 2;
  }
  LeaveOutTheSecond(epoch);
  int other = 0;  // holds experts together with the second
  for (const WorkerSnapshot& worker : t.Snapshot().workers) {
    if (worker.death.experts_lost > 0) other = static_cast<int>(worker.worker.value());
  }
  ASSERT_GT(other, 0);
  const int speaker = other == 1 ? 3 : 1;
  t.Arrive(MakeRequest(2, 2, 9));
  StepDone failure =
      Transcript::Report(speaker, t.Snapshot().steps + 1, {}, t.Snapshot().epoch.value());
  failure.status = absl::UnavailableError("gone");
  failure.blamed = {RankId(other - 1)};
  t.Do(failure);
  const absl::Time begin = t.now;
  const std::string without_other = absl::StrCat("without ", other - 1);
  for (Lines lines; !Matches(Contains(HasSubstr(without_other)))(lines);) {
    ASSERT_LT(t.now - begin, absl::Seconds(20));
    const int64_t now_epoch = t.Snapshot().epoch.value();
    for (int w = 1; w <= 4; ++w) {
      if (w == other) {
        Fail(w, now_epoch, {0, 1, 2, 3});
      } else {
        Fail(w, now_epoch, {other - 1});
      }
    }
    lines = Wait(absl::Seconds(2));
  }
}

// The others have no time to say anything in any epoch, and say it in the next one.
TEST_F(CoreReachOneHolder, WhoWasInterruptedDoesNotHang) {
  const absl::Time begin = t.now;
  for (int64_t last = 0; t.now - begin < absl::Minutes(2);) {
    const int64_t epoch = t.Snapshot().epoch.value();
    if (epoch != last) {
      for (int w = 2; w <= 4 && last != 0; ++w) Fail(w, last, {});
      last = epoch;
    }
    Fail(1, epoch, {1});  // at once
    for (int w = 1; w <= 4; ++w) t.Do(Heartbeat{WorkerId(w)});
    EXPECT_THAT(t.TickAfter(absl::Milliseconds(50)), Not(Contains(StartsWith("evict"))));
  }
}

TEST(CoreReachFirst, AStandbyTakesARankThatKeepsTheUnitFromForming) {
  Transcript t(Transcript::Small(2));
  for (const int w : {1, 2, 3}) t.Join(w);
  const auto fail = [&](int64_t epoch) {
    t.Do(ConnectFailed{WorkerId(1), Epoch(epoch), absl::UnavailableError("refused"), {RankId(1)}});
    t.Do(ConnectFailed{WorkerId(2), Epoch(epoch), absl::UnavailableError("late"), {RankId(0)}});
    return t.TickAfter(absl::Milliseconds(50));
  };
  EXPECT_THAT(fail(1), ElementsAre("assign w1 rank 0 epoch 2", "assign w2 rank 1 epoch 2"));
  t.now += absl::Seconds(15);
  EXPECT_THAT(fail(2), ElementsAre(StartsWith("evict w2: UNAVAILABLE"), "assign w1 rank 0 epoch 3",
                                   "assign w3 rank 1 epoch 3"));
}

TEST(CoreReachFirst, TheFirstEpochIsTriedAgainWithAll) {
  Transcript t(Transcript::Small(2));
  t.Join(1);
  t.Join(2);
  t.Do(ConnectFailed{WorkerId(1), Epoch(1), absl::UnavailableError("refused"), {RankId(1)}});
  t.Ready(2, 1);
  EXPECT_THAT(t.TickAfter(absl::Milliseconds(50)),
              ElementsAre("assign w1 rank 0 epoch 2", "assign w2 rank 1 epoch 2"));
}

TEST(LeaveOutTest, AFewWithoutWhomAllOthersMeet) {
  std::vector<RankId> needed;      // each
  std::vector<RankId> needed_one;  // of them
  const auto can_do_without = [&](absl::Span<const RankId> ranks) {
    const auto left_out = [&](RankId rank) {
      return std::find(ranks.begin(), ranks.end(), rank) != ranks.end();
    };
    return std::none_of(needed.begin(), needed.end(), left_out) &&
           (needed_one.empty() || !std::all_of(needed_one.begin(), needed_one.end(), left_out));
  };
  const auto out = [&](const std::vector<Accusation>& accusations) {
    const std::vector<int64_t> joined = {4, 1, 2, 3};
    std::vector<int> ranks;
    for (const RankId rank : LeaveOut(accusations, joined, can_do_without)) {
      ranks.push_back(rank.value());
    }
    return ranks;
  };
  const RankId a(0), b(1), c(2), d(3);
  EXPECT_THAT(out({}), IsEmpty());
  EXPECT_THAT(out({{b, c}, {c, b}}), ElementsAre(2));  // the later one
  EXPECT_THAT(out({{a, b}, {b, a}}), ElementsAre(0));
  EXPECT_THAT(out({{a, b}}), ElementsAre(1));                  // the accused
  EXPECT_THAT(out({{b, b}}), ElementsAre(1));                  // its own fault
  EXPECT_THAT(out({{b, a}, {b, c}, {b, d}}), ElementsAre(1));  // who accuses everybody
  EXPECT_THAT(out({{a, b}, {b, a}, {c, d}, {d, c}}), ElementsAre(0, 3));

  needed = {b};
  EXPECT_THAT(out({{a, b}, {b, a}}), ElementsAre(0));
  EXPECT_THAT(out({{a, b}}), ElementsAre(0));
  EXPECT_THAT(out({{b, b}}), IsEmpty());
  EXPECT_THAT(out({{b, a}, {b, c}, {d, b}}), ElementsAre(0, 2, 3));
  needed = {d};  // the first choice is needless after the second one
  EXPECT_THAT(out({{b, a}, {c, a}, {b, d}, {c, d}}), ElementsAre(1, 2));
  needed = {a, b};
  EXPECT_THAT(out({{a, b}, {c, d}}), IsEmpty());
  needed.clear();
  needed_one = {a, d};  // after the first choice the second one is another
  EXPECT_THAT(out({{a, b}, {b, a}, {c, d}, {d, c}}), ElementsAre(0, 2));
}

// One half holds all there is; the other one lacks what only one rank of the first holds.
TEST(LeaveOutTest, HalfOfALargeUnit) {
  constexpr int kHalf = 512;
  std::vector<Accusation> all;
  std::vector<int64_t> joined;
  for (int a = 0; a < kHalf; ++a) {
    for (int b = kHalf; b < 2 * kHalf; ++b) {
      all.push_back({RankId(a), RankId(b)});
      all.push_back({RankId(b), RankId(a)});
    }
  }
  for (int rank = 0; rank < 2 * kHalf; ++rank) joined.push_back(rank);
  for (const int lone : {kHalf, 2 * kHalf - 1}) {
    const auto can_do_without = [&](absl::Span<const RankId> ranks) {
      std::vector<bool> out(2 * kHalf, false);
      for (const RankId rank : ranks) out[rank.value()] = true;
      for (int i = 0; i < kHalf; ++i) {
        if (out[i] && out[kHalf + i]) return false;
      }
      return !out[lone];
    };
    EXPECT_THAT(LeaveOut(all, joined, can_do_without), SizeIs(kHalf));
  }
}

}  // namespace
}  // namespace shoal::testing
