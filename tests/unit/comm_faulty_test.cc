// SPDX-License-Identifier: Apache-2.0
// Shows that the faulty fabric does what its script says, where it says, and the same each time:
// the tests that rely on it should fail for the fault, not for the fabric.
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "comm/faulty/faulty_fabric.h"
#include "engine/parallel/blamed_peers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/comm_ranks.h"

namespace shoal::comm_test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::Time In(absl::Duration duration) { return absl::Now() + duration; }

Fault Make(Fault::Kind kind) {
  Fault fault;
  fault.kind = kind;
  return fault;
}

// Two ranks; rank 0's fabric follows the script.
void RunFaulty(const FaultScript& script, const std::function<void(Rank&, Exchange&)>& body) {
  RunRanks(
      2, [](int) { return Options("inprocess", 500); },
      [&](Rank& me) {
        if (me.rank == 0) me.fabric = MakeFaultyFabric(std::move(me.fabric), script);
        Exchange* exchange = me.Connect(1);
        ASSERT_NE(exchange, nullptr);
        body(me, *exchange);
        me.meet();
      });
}

// One exchange; its first error.
absl::Status Once(Exchange& exchange, const ExchangeTag& tag,
                  absl::Duration patience = absl::Seconds(20)) {
  absl::Status status = SendAll(exchange, tag, 1, In(patience));
  if (status.ok()) status = ReceiveAll(exchange, tag, 1, In(patience));
  exchange.Release(tag);
  return status;
}

TEST(CommFaulty, WithoutFaultsItIsTheFabric) {
  RunFaulty({}, [](Rank&, Exchange& exchange) {
    for (int step = 0; step < 20; ++step) {
      EXPECT_EQ(Once(exchange, Tag(1, step, 0)), absl::OkStatus());
    }
  });
}

TEST(CommFaulty, DelaysOnlyWhatItShould) {
  Fault delay = Make(Fault::Kind::kDelay);
  delay.delay = absl::Milliseconds(400);
  delay.layer = 3;
  RunFaulty({.seed = 5, .faults = {delay}}, [](Rank&, Exchange& exchange) {
    absl::Duration total;
    for (int step = 0; step < 4; ++step) {
      EXPECT_EQ(Once(exchange, Tag(1, step, 2)), absl::OkStatus());
      const absl::Time start = absl::Now();
      EXPECT_EQ(Once(exchange, Tag(1, step, 3)), absl::OkStatus());
      total += absl::Now() - start;
    }
    EXPECT_GT(total, absl::Milliseconds(200));  // four draws, 200 ms each in the mean
  });
}

TEST(CommFaulty, ADroppedMessageIsATimeoutThatNamesItsSender) {
  Fault drop = Make(Fault::Kind::kDrop);
  drop.peer = RankId(1);
  drop.step = StepId(2);
  RunFaulty({.seed = 0, .faults = {drop}}, [](Rank& me, Exchange& exchange) {
    for (int step = 0; step < 2; ++step) {
      EXPECT_EQ(Once(exchange, Tag(1, step, 0)), absl::OkStatus());
    }
    const absl::Status status = Once(exchange, Tag(1, 2, 0), absl::Milliseconds(100));
    if (me.rank == 1) return;
    EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
    EXPECT_THAT(status.message(), HasSubstr("step 2 layer 0 dispatch: rank 0 waits for rank 1"));
    EXPECT_THAT(BlamedPeers(status), ElementsAre(RankId(1)));
  });
}

TEST(CommFaulty, ACutLastsUntilTheNextConnect) {
  Fault cut = Make(Fault::Kind::kCut);
  cut.peer = RankId(1);
  cut.step = StepId(1);
  RunFaulty({.seed = 0, .faults = {cut}}, [](Rank& me, Exchange& exchange) {
    EXPECT_EQ(Once(exchange, Tag(1, 0, 0)), absl::OkStatus());
    if (me.rank == 0) {
      for (int step : {1, 2}) {
        const absl::Status status = Once(exchange, Tag(1, step, 0));
        EXPECT_TRUE(absl::IsUnavailable(status)) << status;
        EXPECT_THAT(status.message(), HasSubstr("rank 1 is gone"));
        EXPECT_THAT(BlamedPeers(status), ElementsAre(RankId(1)));
      }
    }
    ASSERT_EQ(me.Connect(2), &exchange);
    EXPECT_EQ(Once(exchange, Tag(2, 2, 0)), absl::OkStatus());
  });
}

TEST(CommFaulty, APostFromThePastReachesNobody) {
  RunFaulty({.seed = 0, .faults = {Make(Fault::Kind::kStalePost)}},
            [](Rank& me, Exchange& exchange) {
              for (int64_t epoch = 2; epoch < 5; ++epoch) {
                me.meet();
                ASSERT_EQ(exchange.InstallEpoch(Epoch(epoch)), absl::OkStatus());
                for (int step = 0; step < 20; ++step) {
                  EXPECT_EQ(Once(exchange, Tag(epoch, step, 0)), absl::OkStatus());
                }
              }
            });
}

// Which exchanges are struck is a matter of the seed alone, and about as many as the probability
// says.
TEST(CommFaulty, TheSameSeedStrikesTheSameExchanges) {
  const auto struck = [](uint64_t seed) {
    Fault cut = Make(Fault::Kind::kCut);
    cut.peer = RankId(0);
    cut.probability = 0.25;
    std::vector<bool> out;
    RunRanks(
        1, [](int) { return Options("inprocess", 10); },
        [&](Rank& me) {
          me.fabric = MakeFaultyFabric(std::move(me.fabric), {.seed = seed, .faults = {cut}});
          for (int64_t epoch = 1; epoch <= 200; ++epoch) {
            Exchange* exchange = me.Connect(epoch);
            out.push_back(!Once(*exchange, Tag(epoch, 0, 0)).ok());
          }
        });
    return out;
  };
  const std::vector<bool> first = struck(1);
  EXPECT_EQ(first, struck(1));
  EXPECT_NE(first, struck(2));
  const auto count = std::count(first.begin(), first.end(), true);
  EXPECT_GT(count, 20);
  EXPECT_LT(count, 80);
}

}  // namespace
}  // namespace shoal::comm_test
