// SPDX-License-Identifier: Apache-2.0
// Shows who is left out when steps fail in epoch after epoch although all members are connected,
// and that failures which have nothing to do with each other leave out nobody.
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/core_transcript.h"

namespace shoal::testing {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using ::testing::StartsWith;

class CoreFailedSteps : public ::testing::Test {
 protected:
  static CoreConfig Config() {
    CoreConfig config = Transcript::Small(4);
    config.holders = 2;
    return config;
  }
  CoreFailedSteps() : t(Config()) {
    t.Serve();
    t.Arrive(MakeRequest(1, 2, 9));
  }
  StepDone Failure(int64_t worker, absl::StatusCode code, const std::vector<RankId>& blamed) const {
    StepDone done =
        Transcript::Report(worker, t.Snapshot().steps + 1, {}, t.Snapshot().epoch.value());
    done.status = absl::Status(code, "no");
    done.blamed = blamed;
    return done;
  }
  void AllReady() {
    for (int w = 1; w <= 4; ++w) t.Ready(w, t.Snapshot().epoch.value());
  }

  Transcript t;
};

// Peers connect, and then nothing comes through.
TEST_F(CoreFailedSteps, WhoFailsStepAfterStepIsLeftOut) {
  int64_t epoch = 1;
  const auto fail = [&](int64_t worker, const std::vector<RankId>& blamed) {
    t.now += absl::Seconds(1);
    StepDone done = Transcript::Report(worker, t.Snapshot().steps + 1, {}, epoch);
    done.status = absl::DataLossError("a corrupt message");
    done.blamed = blamed;
    return t.Do(done);
  };
  for (; epoch < 3; ++epoch) {
    EXPECT_THAT(fail(3, {RankId(1)}), SizeIs(4));  // nobody is evicted for what another one sent
    for (const int w : {1, 2, 3, 4}) t.Ready(w, epoch + 1);
  }
  const std::string end = " epoch 4 without 1";
  EXPECT_THAT(
      fail(2, {RankId(0), RankId(2), RankId(99)}),
      ElementsAre("assign w1 rank 0" + end, "assign w3 rank 2" + end, "assign w4 rank 3" + end));
  EXPECT_EQ(t.Snapshot().workers[1].state, "left out");
  EXPECT_EQ(t.Snapshot().recoveries.back().cause, Recovery::Cause::kStep);
}

// First only one of its links fails, and the other end of that is left out; then a second one.
TEST_F(CoreFailedSteps, WhoFailsWithOneAfterAnotherIsLeftOutInTheirStead) {
  int64_t epoch = 1;
  // The first rank hears nothing of that one, and everybody waits for the first.
  const auto fail = [&](int rank) {
    Lines lines;
    for (int worker = 1; worker <= 4; ++worker) {
      if (t.Snapshot().workers[worker - 1].state == "left out") continue;
      t.now += absl::Milliseconds(500);
      StepDone done = Transcript::Report(worker, t.Snapshot().steps + 1, {}, epoch);
      done.status = absl::DeadlineExceededError("nothing comes");
      done.blamed = {RankId(worker == 1 ? rank : 0)};
      const Lines more = t.Do(done);
      lines.insert(lines.end(), more.begin(), more.end());
    }
    ++epoch;
    for (int worker = 1; worker <= 4; ++worker) t.Ready(worker, epoch);
    return lines;
  };
  for (int i = 0; i < 2; ++i) EXPECT_THAT(fail(1), SizeIs(4));
  EXPECT_THAT(fail(1), Contains("assign w1 rank 0 epoch 4 without 1"));
  for (int i = 0; i < 2; ++i) EXPECT_THAT(fail(2), SizeIs(3));
  EXPECT_THAT(fail(2), Contains("assign w2 rank 1 epoch 7 without 0"));
}

TEST_F(CoreFailedSteps, WhoTakesNoPartAccusesNobody) {
  t.Lose(4);
  t.Join(5, 100, 3);  // it loads
  AllReady();
  for (int i = 0; i < 3; ++i) {
    t.now += absl::Seconds(3);
    const int64_t epoch = t.Snapshot().epoch.value();
    t.Do(Failure(1, absl::StatusCode::kDeadlineExceeded, {RankId(1)}));
    StepDone forged = Transcript::Report(5, 1, {}, epoch);
    forged.status = absl::AbortedError("it was the first");
    forged.blamed = {RankId(0), RankId(2)};
    t.Do(forged);
    if (i == 1) t.Lose(5);
    AllReady();
  }
  EXPECT_NE(t.Snapshot().workers[0].state, "left out");
  EXPECT_NE(t.Snapshot().workers[2].state, "left out");
}

TEST_F(CoreFailedSteps, WhoBlamesNobodyThereIsEvicted) {
  EXPECT_THAT(t.Do(Failure(2, absl::StatusCode::kInternal, {RankId(1), RankId(99), RankId(-1)})),
              Contains(StartsWith("evict w2: INTERNAL")));
}

// Small messages pass: every epoch commits a step before a larger one is lost.
TEST_F(CoreFailedSteps, StepsThatAreCommittedBetweenDoNotHideWhoFails) {
  t.Done(1, 1, {{1, 2, 20}});
  for (const int w : {2, 3, 4}) t.Done(w, 1);
  for (int i = 0; i < 2; ++i) {
    t.now += absl::Seconds(30);
    const int64_t epoch = t.Snapshot().epoch.value();
    for (const int w : {1, 3, 4}) {
      StepDone late = Failure(w, absl::StatusCode::kDeadlineExceeded, {RankId(1)});
      late.epoch = Epoch(epoch);
      t.Do(late);
    }
    AllReady();
    if (i > 0) break;
    const int64_t step = t.Snapshot().steps + 1;
    ASSERT_EQ(step, 2);
    for (const int w : {2, 3, 4}) t.Done(w, 4);
    t.Done(1, 4, {{1, 3, 21}});
    ASSERT_EQ(t.Snapshot().steps, 2);
  }
  EXPECT_EQ(t.Snapshot().workers[1].state, "left out");
}

// A unit that serves: every plan is answered, until a step is to fail.
class CoreServingUnit {
 public:
  CoreServingUnit(int holders, int standbys, int workers = 4) : t_(Config(holders, workers)) {
    for (int w = 1; w <= workers + standbys; ++w) {
      WorkerJoined joined{WorkerId(w), "host", 100 + w, 100, std::nullopt};
      joined.boot_nonce = 100 + w;
      Do(joined);
    }
    AllReady();
  }

  // Members become ready so long after they were assigned.
  absl::Duration connect_time;

  // A request of one token comes.
  void Begin() { Do(RequestArrived{MakeRequest(++request_, 2, 1)}); }
  // All its steps are done.
  void Commit() {
    while (!plans_.empty()) {
      const SendPlan plan = plans_.front();
      plans_.erase(plans_.begin());
      StepDone done;
      done.worker = plan.worker;
      done.epoch = plan.plan.epoch;
      done.step = plan.plan.step;
      for (const SequenceWork& work : plan.plan.plan.work) {
        if (!work.sample) continue;
        SampledToken token;
        token.sequence = work.id;
        token.position = work.start + work.count;
        token.token = 20;
        done.tokens.push_back(token);
      }
      Do(done);
    }
  }
  // By worker, for which ranks it waited; the next epoch begins.
  void Fail(absl::StatusCode code, const std::vector<std::pair<int, std::vector<int>>>& waits) {
    ASSERT_FALSE(plans_.empty());
    const StepPlan failed = plans_.front().plan;
    for (const auto& [worker, ranks] : waits) {
      StepDone done;
      done.worker = WorkerId(worker);
      done.epoch = failed.epoch;
      done.step = failed.step;
      done.status = absl::Status(code, "no");
      for (const int rank : ranks) done.blamed.push_back(RankId(rank));
      Do(done);
    }
    AllReady();
  }
  void Wait(absl::Duration time) {
    for (const absl::Time end = t_.now + time; t_.now < end;) {
      t_.now += absl::Milliseconds(50);
      Beat();
      Do(Tick{});
      if (!t_.Snapshot().serving) AllReady();
    }
  }
  // A request a second.
  void Serve(absl::Duration time) {
    for (const absl::Time end = t_.now + time; t_.now < end;) {
      Wait(absl::Seconds(1));
      Begin();
      Commit();
      if (!t_.Snapshot().serving) AllReady();
    }
  }

  void Lose(int worker) {
    Do(WorkerLost{WorkerId(worker), "killed"});
    AllReady();
  }
  // It has loaded, and enters with the next epoch, or when no step is under way.
  void Join(int worker) {
    WorkerJoined joined{WorkerId(worker), "host", 100 + worker, 100, std::nullopt};
    joined.boot_nonce = 100 + worker;
    Do(joined);
    Do(WorkerLoaded{WorkerId(worker)});
  }
  // A worker dies, and the others, of this epoch then, do not reach another one.
  void LoseAndCut(int dead, int cut) {
    Do(WorkerLost{WorkerId(dead), "killed"});
    const Epoch epoch = t_.Snapshot().epoch;
    for (const std::optional<WorkerId>& worker : UnitMembers(members_)) {
      if (!worker.has_value() || worker->value() == cut) continue;
      Do(ConnectFailed{*worker, epoch, absl::DeadlineExceededError("no way"), {RankId(cut - 1)}});
    }
  }

  std::string State(int worker) const {
    for (const WorkerSnapshot& w : t_.Snapshot().workers) {
      if (w.worker == WorkerId(worker)) return std::string(w.state);
    }
    return "not there";
  }
  // A worker whose death would cost experts; 0: there is none.
  int Needed() const {
    for (const WorkerSnapshot& w : t_.Snapshot().workers) {
      if (w.death.experts_lost > 0) return static_cast<int>(w.worker.value());
    }
    return 0;
  }
  bool serving() const { return t_.Snapshot().serving; }
  absl::Time now() const { return t_.now; }

 private:
  static CoreConfig Config(int holders, int workers) {
    CoreConfig config = Transcript::Small(workers);
    config.holders = holders;
    return config;
  }
  void Do(const Event& event) {
    t_.Do(event);
    for (const Command& command : t_.commands) {
      if (const auto* plan = std::get_if<SendPlan>(&command)) plans_.push_back(*plan);
      if (const auto* assigned = std::get_if<AssignRank>(&command)) {
        plans_.clear();
        members_ = *assigned->members;
      }
    }
  }
  void Beat() {
    for (int w = 1; w <= 20; ++w) Do(Heartbeat{WorkerId(w)});
  }
  void AllReady() {
    t_.now += connect_time;
    Beat();
    const Epoch epoch = t_.Snapshot().epoch;
    for (const std::optional<WorkerId>& worker : UnitMembers(members_)) {
      if (worker.has_value()) Do(WorkerReady{*worker, epoch});
    }
  }

  Transcript t_;
  std::vector<SendPlan> plans_;  // not answered, of the present epoch
  UnitMembers members_;
  int64_t request_ = 0;
};

constexpr auto kLate = absl::StatusCode::kDeadlineExceeded;
constexpr auto kBent = absl::StatusCode::kDataLoss;

TEST(CoreServingUnitTest, WhoCameBackAndServedIsNotBlamedForFailuresOfOthers) {
  CoreServingUnit unit(2, 1);
  unit.Begin();
  for (int i = 0; i < 3; ++i) {
    unit.Wait(absl::Seconds(1));
    unit.Fail(kBent, {{3, {1}}});
  }
  ASSERT_EQ(unit.State(2), "left out");
  unit.Commit();
  unit.Serve(absl::Seconds(20));
  ASSERT_EQ(unit.State(2), "serving");
  unit.Begin();
  for (int i = 0; i < 3; ++i) {
    unit.Wait(absl::Seconds(1));
    unit.Fail(kBent, {{4, {0}}});
  }
  EXPECT_EQ(unit.State(1), "left out");
  EXPECT_EQ(unit.State(2), "serving");
}

TEST(CoreServingUnitTest, FailuresOfDifferentRanksWithStepsBetweenLeaveOutNobody) {
  for (const int holders : {1, 2}) {
    CoreServingUnit unit(holders, 1);
    unit.Begin();
    unit.Fail(kLate, {{1, {1}}, {3, {1}}, {4, {1}}, {2, {0, 2, 3}}});
    unit.Commit();
    unit.Serve(absl::Seconds(20));
    unit.Begin();
    unit.Fail(absl::StatusCode::kUnavailable, {{1, {3}}});
    EXPECT_EQ(unit.State(2), "serving");
    EXPECT_EQ(unit.State(4), "serving");
  }
}

TEST(CoreServingUnitTest, SmallStepsDoNotHideWhoSpoilsLargeOnes) {
  CoreServingUnit unit(2, 0);
  for (int epochs = 0; unit.State(2) == "serving"; ++epochs) {
    ASSERT_LT(epochs, 4);
    unit.Wait(absl::Milliseconds(50));
    unit.Begin();
    unit.Commit();
    unit.Begin();
    unit.Fail(kBent, {{1, {1}}});
  }
  EXPECT_TRUE(unit.serving());
}

// The time to connect shows nothing of steps.
TEST(CoreServingUnitTest, SlowConnectsDoNotHideWhoSpoilsSteps) {
  CoreServingUnit unit(2, 0);
  unit.connect_time = absl::Seconds(2);
  for (int epochs = 0; unit.State(2) == "serving"; ++epochs) {
    ASSERT_LT(epochs, 4);
    unit.Begin();
    unit.Commit();
    unit.Begin();
    unit.Fail(kBent, {{1, {1}}});
  }
}

TEST(CoreServingUnitTest, WhoSpoilsStepsForOneAfterAnotherIsLeftOut) {
  CoreServingUnit unit(3, 0, 6);
  for (const int notices : {1, 3, 4}) {
    ASSERT_EQ(unit.State(2), "serving");
    unit.Begin();
    unit.Commit();
    unit.Begin();
    unit.Fail(kBent, {{notices, {1}}});
  }
  EXPECT_EQ(unit.State(2), "left out");
}

// Another one comes and goes with every step.
TEST(CoreServingUnitTest, WhoComesAndGoesDoesNotHideWhoHangs) {
  CoreServingUnit unit(3, 0, 6);
  int other = 6;
  for (int i = 0; i < 6; ++i) unit.Begin();
  for (int round = 0; unit.State(2) != "left out"; ++round) {
    ASSERT_LT(round, 4);
    unit.Wait(absl::Seconds(29));
    unit.Fail(kLate, {{1, {1}}, {3, {1}}, {4, {1}}, {5, {1}}, {2, {0, 2, 3, 4}}});
    unit.Lose(other);
    unit.Begin();
    unit.Join(other = 10 + round);
  }
}

// Nothing was computed since it came back. That does not make it the one whom others do not reach.
TEST(CoreServingUnitTest, WhoFailedStepsLongAgoIsNotInTheWayOfConnects) {
  CoreServingUnit unit(4, 2, 6);
  unit.Begin();
  for (int i = 0; i < 3; ++i) {
    unit.Wait(absl::Seconds(1));
    unit.Fail(kBent, {{3, {1}}});
  }
  ASSERT_EQ(unit.State(2), "left out");
  unit.Commit();
  unit.Wait(absl::Seconds(300));
  ASSERT_EQ(unit.State(2), "serving");
  unit.LoseAndCut(6, 4);
  unit.Wait(absl::Seconds(1));
  EXPECT_EQ(unit.State(2), "serving");
  EXPECT_EQ(unit.State(4), "left out");
}

TEST(CoreServingUnitTest, WaitsInACircleBlameSomebody) {
  CoreServingUnit unit(3, 0, 6);
  unit.Begin();
  for (int i = 0; i < 3; ++i) {
    unit.Wait(absl::Seconds(3));
    unit.Fail(kLate, {{1, {2}}, {2, {0}}, {3, {1}}});
  }
  EXPECT_TRUE(unit.State(1) == "left out" || unit.State(2) == "left out" ||
              unit.State(3) == "left out");
}

// One that the unit needs fails steps; with one that is on leave it would not need it.
TEST(CoreServingUnitTest, WhoIsOnLeaveComesBackWhenAnotherFailsSteps) {
  CoreServingUnit unit(2, 0);
  const auto fail = [&](int spoiler) {
    std::vector<std::pair<int, std::vector<int>>> waits;
    for (int w = 1; w <= 4; ++w) {
      if (w != spoiler && unit.State(w) == "serving") waits.push_back({w, {spoiler - 1}});
    }
    unit.Begin();
    for (int i = 0; i < 3 && unit.State(spoiler) == "serving"; ++i) {
      unit.Wait(absl::Seconds(1));
      unit.Fail(kBent, waits);
    }
    unit.Commit();
  };
  for (int leave = 0; leave < 4; ++leave) {  // the last one is 135 s long
    fail(2);
    ASSERT_EQ(unit.State(2), "left out");
    for (int i = 0; leave < 3 && unit.State(2) != "serving"; ++i) {
      ASSERT_LT(i, 300);
      unit.Serve(absl::Seconds(1));
    }
  }
  const int other = unit.Needed();
  ASSERT_GT(other, 0);
  const absl::Time begin = unit.now();
  while (unit.State(other) != "left out") {
    fail(other);
    ASSERT_LT(unit.now() - begin, absl::Seconds(10));
  }
  EXPECT_EQ(unit.State(2), "serving");
  EXPECT_TRUE(unit.serving());
}

}  // namespace
}  // namespace shoal::testing
