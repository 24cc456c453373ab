// SPDX-License-Identifier: Apache-2.0
// Shows whom the core lets run, where, and who yields: placement, the prefix cache, further
// choices, preemption, priorities and fairness between users, as transcripts of commands
// (core_transcript.h).
#include <algorithm>
#include <map>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/core_fake_worker.h"
#include "tests/unit/core_transcript.h"

namespace shoal::testing {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// A worker that has no peers never waits for one.
class Alone final : public FakePeers {
 public:
  bool Connected(Epoch, const Members&) override { return true; }
  void Contribute(WorkerId, Epoch, StepId) override {}
  bool Complete(Epoch, StepId, const Members&) override { return true; }
  StepId Committed() override { return StepId(0); }
};

TEST(CoreScheduling, ASequenceGoesWhereTheLeastWorkLies) {
  Transcript t(Transcript::Small(2));
  t.Serve();
  EXPECT_THAT(First(t.Arrive(MakeRequest(1, 9, 5, 10))), HasSubstr("plan w1 s1: new 1"));
  EXPECT_THAT(t.Arrive(MakeRequest(2, 3, 5, 20)), IsEmpty());  // both steps are under way
  EXPECT_THAT(t.Arrive(MakeRequest(3, 3, 5, 30)), IsEmpty());
  t.Done(1, 1, {{1, 9, 50}});
  const Lines lines = t.Done(2, 1);
  // Rank 1 is empty; then each has one sequence, and rank 1 still has rows to prefill: rank 0.
  EXPECT_THAT(lines,
              ElementsAre("emit r1.0 @0 [50]",
                          "plan w1 s3: new 3 [30 31 32] prompt 3; work 3 [0,3) sample blocks 3",
                          "plan w2 s3: new 2 [20 21 22] prompt 3; work 2 [0,3) sample blocks 0"));
}

TEST(CoreScheduling, APromptSeenBeforeGoesToItsBlocks) {
  Transcript t(Transcript::Small(2));
  t.Serve();
  t.Arrive(MakeRequest(1, 9, 1));
  t.Done(1, 1, {{1, 9, 50}});
  EXPECT_THAT(t.Done(2, 1), ElementsAre("emit r1.0 @0 [50] length"));
  // Full blocks 0 and 1 are taken from the cache; the third was not full and is not.
  EXPECT_THAT(
      t.Arrive(MakeRequest(2, 11, 1)),
      ElementsAre("plan w1 s2: forget 1; new 2 [10 11 12 13 14 15 16 17 18 19 20] prompt 11; "
                  "work 2 [8,11) sample blocks 0 1 2",
                  "plan w2 s2:"));
  t.Done(1, 2, {{2, 11, 50}});
  EXPECT_THAT(t.Done(2, 2), ElementsAre("emit r2.0 @0 [50] cached 8 length"));
  EXPECT_EQ(t.Snapshot().prefix_cache_queries, 20);
  EXPECT_EQ(t.Snapshot().prefix_cache_hits, 8);
  // One row is always computed: its logits are wanted.
  EXPECT_THAT(First(t.Arrive(MakeRequest(3, 8, 1))), HasSubstr("work 3 [4,8) sample blocks 0"));
}

TEST(CoreScheduling, CachedBlocksOutweighAnEqualRank) {
  Transcript t(Transcript::Small(2));
  t.Serve();
  t.Arrive(MakeRequest(1, 9, 3, 10));
  t.Arrive(MakeRequest(2, 9, 1, 30));
  t.Done(1, 1, {{1, 9, 51}});
  EXPECT_THAT(Last(t.Done(2, 1)), HasSubstr("plan w2 s3: new 2 [30"));
  t.Done(1, 2, {{1, 10, 52}});
  t.Done(2, 2);
  t.Done(1, 3, {{1, 11, 53}});
  t.Done(2, 3, {{2, 9, 71}});
  EXPECT_EQ(t.Snapshot().requests_running, 0);
  EXPECT_THAT(Last(t.Arrive(MakeRequest(3, 9, 1, 30))), HasSubstr("new 3 [30"));
}

TEST(CoreScheduling, ANewcomerLeavesABlockForEachRunningSequence) {
  CoreConfig config = Transcript::Small();
  config.prefix_cache = false;
  Transcript t(config);
  t.Serve(4);
  t.Arrive(MakeRequest(1, 4, 9, 10));
  // Two of four blocks are left; two for the newcomer would leave none to grow into.
  t.Arrive(MakeRequest(2, 7, 2, 20));
  EXPECT_THAT(t.Done(1, 1, {{1, 4, 51}}), ElementsAre("emit r1.0 @0 [51]", "plan w1 s3:"));
  EXPECT_EQ(t.Snapshot().requests_waiting, 1);
}

TEST(CoreScheduling, GeneratedTokensAreFoundByTheNextTurn) {
  Transcript t(Transcript::Small());
  t.Serve();
  t.Arrive(MakeRequest(1, 3, 6));
  for (int step = 1; step <= 6; ++step) t.Done(1, step, {{1, 2 + step, 60 + step}});
  Request next = MakeRequest(2, 3, 1);
  for (int32_t token : {61, 62, 63, 64, 65, 66, 90}) next.prompt.push_back(token);
  EXPECT_THAT(First(t.Arrive(next)), HasSubstr("work 2 [8,10) sample"));
}

TEST(CoreScheduling, WithoutThePrefixCacheEverythingIsComputed) {
  CoreConfig config = Transcript::Small();
  config.prefix_cache = false;
  Transcript t(config);
  t.Serve();
  t.Arrive(MakeRequest(1, 9, 1));
  t.Done(1, 1, {{1, 9, 50}});
  EXPECT_THAT(First(t.Arrive(MakeRequest(2, 9, 1))), HasSubstr("work 2 [0,9) sample"));
  EXPECT_EQ(t.Snapshot().prefix_cache_queries, 0);
}

TEST(CoreScheduling, FurtherChoicesShareThePromptsFullBlocks) {
  Transcript t(Transcript::Small());
  t.Serve();
  Request request = MakeRequest(1, 6, 9);
  request.n = 3;
  request.sampling.seed = 40;
  EXPECT_THAT(
      t.Arrive(request),
      ElementsAre("plan w1 s1: new 1 [10 11 12 13 14 15] prompt 6; work 1 [0,6) sample "
                  "blocks 0 1",
                  "plan w1 s2: new 2 [10 11 12 13 14 15] prompt 6; new 3 [10 11 12 13 14 15] "
                  "prompt 6; work 2 [4,6) sample blocks 0 2; work 3 [4,6) sample blocks 0 3"));
  EXPECT_EQ(std::get<SendPlan>(t.commands[0]).plan.plan.new_sequences[0].sampling.seed, 40u);
  EXPECT_EQ(std::get<SendPlan>(t.commands[1]).plan.plan.new_sequences[1].sampling.seed, 42u);
  EXPECT_EQ(t.Snapshot().workers[0].blocks_used, 4);
  EXPECT_EQ(First(t.Done(1, 1, {{1, 6, 50}})), "emit r1.0 @0 [50]");
  EXPECT_EQ(t.Snapshot().requests_running, 1);
}

TEST(CoreScheduling, WithoutBlocksTheYoungestYieldsAndComesBackWithItsText) {
  CoreConfig config = Transcript::Small();
  config.prefix_cache = false;
  Transcript t(config);
  t.Serve(4);
  t.Arrive(MakeRequest(1, 4, 9, 10));
  t.Arrive(MakeRequest(2, 4, 4, 20));
  t.Done(1, 1, {{1, 4, 51}});
  // Both have two blocks of the four; 1's row 8 will want a third.
  EXPECT_THAT(Last(t.Done(1, 2, {{1, 5, 52}})), "plan w1 s4: work 2 [4,5) sample blocks 3");
  t.Done(1, 3, {{1, 6, 53}, {2, 4, 71}});
  EXPECT_THAT(t.Done(1, 4, {{1, 7, 54}, {2, 5, 72}}),
              ElementsAre("emit r1.0 @3 [54]", "emit r2.0 @1 [72]",
                          "plan w1 s6: forget 2; work 1 [8,9) sample blocks 2"));
  // Its token of the step in flight still counts.
  EXPECT_THAT(t.Done(1, 5, {{1, 8, 55}, {2, 6, 73}}),
              ElementsAre("emit r1.0 @4 [55]", "emit r2.0 @2 [73]", "plan w1 s7:"));
  EXPECT_EQ(t.Snapshot().preemptions, 1);
  for (int step = 6; step <= 8; ++step) t.Done(1, step, {{1, 3 + step, 50 + step}});
  EXPECT_THAT(t.Done(1, 9, {{1, 12, 59}}), ElementsAre("emit r1.0 @8 [59] length"));
  EXPECT_THAT(t.Do(Tick{}), IsEmpty());
}

TEST(CoreScheduling, APreemptedSequenceReturnsBeforeThoseWhoNeverRan) {
  CoreConfig config = Transcript::Small();
  config.prefix_cache = false;
  config.max_running_sequences = 2;
  Transcript t(config);
  std::vector<std::string> problems;
  FakeWorker worker(4, config, &problems);
  worker.Connect(WorkerId(1));
  Alone alone;
  Lines told;
  const auto obey = [&](const Lines& lines) {
    told.insert(told.end(), lines.begin(), lines.end());
    for (const Command& command : t.commands) {
      if (const auto* assign = std::get_if<AssignRank>(&command)) worker.Receive(*assign);
      if (const auto* send = std::get_if<SendPlan>(&command)) worker.Receive(send->plan);
    }
  };
  obey(t.Join(1, 4));
  Request requests[] = {MakeRequest(1, 4, 9, 10), MakeRequest(2, 4, 8, 10),
                        MakeRequest(3, 2, 2, 10)};
  for (Request& request : requests) {
    request.sampling.end_token_ids.clear();
    request.sampling.seed = static_cast<uint64_t>(request.id.value());
    obey(t.Arrive(request));
  }
  while (true) {
    while (worker.outbox.empty() && worker.Work(alone, t.now)) {
      if (worker.loading()) worker.FinishLoading();
    }
    if (worker.outbox.empty()) break;
    const Event event = worker.outbox.front();
    worker.outbox.pop_front();
    obey(t.Do(event));
  }
  EXPECT_THAT(problems, IsEmpty());
  EXPECT_EQ(t.Snapshot().preemptions, 1);

  // Order of entry into the batch: 1, 2, then 2 again with what it had said, then 3.
  Lines entered;
  std::map<std::string, Lines> texts;
  for (const std::string& line : told) {
    for (size_t at = 0; (at = line.find("new ", at)) != std::string::npos; ++at) {
      entered.push_back(line.substr(at, 5));
    }
    if (line.starts_with("emit")) {
      const size_t open = line.find('[');
      texts[line.substr(5, 4)].push_back(line.substr(open + 1, line.find(']') - open - 1));
    }
  }
  EXPECT_THAT(entered, ElementsAre("new 1", "new 2", "new 3", "new 4"));
  const auto is_third = [&](const std::string& line) {
    return line.find("new 3 ") != std::string::npos;
  };
  const std::string& back = *std::find_if(told.begin(), told.end(), is_third);
  EXPECT_THAT(back, HasSubstr("new 3 [10 11 12 13 " + texts["r2.0"][0]));
  EXPECT_THAT(back, HasSubstr("prompt 4"));
  for (const Request& request : requests) {
    Lines alone;
    for (int32_t token : ComputeAlone(request, 0).tokens) alone.push_back(absl::StrCat(token));
    EXPECT_EQ(texts[absl::StrCat("r", request.id.value(), ".0")], alone);
  }
}

TEST(CoreScheduling, AnUrgentRequestTakesThePlaceOfALessUrgentOne) {
  CoreConfig config = Transcript::Small();
  config.max_running_sequences = 1;
  Transcript t(config);
  t.Serve();
  Request casual = MakeRequest(1, 2, 9, 10);
  casual.priority = 5;
  t.Arrive(casual);
  t.Arrive(MakeRequest(2, 2, 1, 20));
  EXPECT_THAT(
      t.Done(1, 1, {{1, 2, 51}}),
      ElementsAre("emit r1.0 @0 [51]",
                  "plan w1 s3: forget 1; new 2 [20 21] prompt 2; work 2 [0,2) sample blocks 0"));
  // The place is free as soon as the urgent one's last row is planned; what the first said
  // meanwhile is part of its text.
  EXPECT_THAT(t.Done(1, 2, {{1, 3, 52}}),
              ElementsAre("emit r1.0 @1 [52]",
                          "plan w1 s4: forget 2; new 3 [10 11 51 52] prompt 2; work 3 [0,4) sample "
                          "blocks 0"));
  EXPECT_THAT(t.Done(1, 3, {{2, 2, 71}}), Contains("emit r2.0 @0 [71] length"));
}

TEST(CoreScheduling, EqualPrioritiesNeverPushEachOtherOut) {
  CoreConfig config = Transcript::Small();
  config.max_running_sequences = 1;
  Transcript t(config);
  t.Serve();
  t.Arrive(MakeRequest(1, 2, 9, 10));
  t.Arrive(MakeRequest(2, 2, 1, 20));
  for (int step = 1; step < 9; ++step) t.Done(1, step, {{1, 1 + step, 50}});
  EXPECT_EQ(t.Snapshot().preemptions, 0);
}

TEST(CoreScheduling, AUserWithOneRequestDoesNotWaitForAUserWithMany) {
  CoreConfig config = Transcript::Small();
  config.max_running_sequences = 1;
  Transcript t(config);
  t.Serve();
  for (int64_t id = 1; id <= 5; ++id) {
    Request request = MakeRequest(id, 2, 1, 10);
    request.user = "many";
    t.Arrive(request);
  }
  Request other = MakeRequest(6, 2, 1, 10);
  other.user = "one";
  t.Arrive(other);
  std::vector<std::string> order;
  for (int step = 1; step <= 6; ++step) {
    for (const std::string& line : t.Done(1, step, {{step, 2, 50}})) {
      if (line.starts_with("emit")) order.push_back(line.substr(5, 2));
    }
  }
  // Two steps were under way when the other came.
  EXPECT_THAT(order, ElementsAre("r1", "r2", "r6", "r3", "r4", "r5"));
}

}  // namespace
}  // namespace shoal::testing
