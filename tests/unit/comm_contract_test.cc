// SPDX-License-Identifier: Apache-2.0
// Shows that every transport keeps the contract of engine/parallel/exchange.h and comm/fabric.h:
// whatever the world, the sizes and the timing, each rank receives exactly what was sent to it in
// this exchange; every wait ends, at the latest at its deadline, with a message that names the
// exchange and the peers; epochs fence; ranks may be absent and come back, and one that does not
// know that it was left out does no harm. The same tests run over each transport, with real ranks
// (threads, or processes under mpirun).
#include <algorithm>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "engine/parallel/blamed_peers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/comm_ranks.h"

namespace shoal::comm_test {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::IsSupersetOf;

#if defined(__SANITIZE_THREAD__)
constexpr int kSlowness = 8;  // ThreadSanitizer takes so much longer, and needs fewer rounds
#else
constexpr int kSlowness = 1;
#endif

absl::Time In(absl::Duration duration) { return absl::Now() + duration; }
absl::Time Soon() { return In(absl::Seconds(30)); }

bool SharesMemory(const std::string& transport) {
  return transport == "inprocess" || transport == "shm";
}

class CommContract : public ::testing::TestWithParam<std::string> {
 protected:
  const std::string& transport() const { return GetParam(); }
};

class CommWorlds : public ::testing::TestWithParam<std::tuple<std::string, int>> {};

// Dispatch and combine of many layers, sizes from nothing to the maximum, each rank pausing where a
// seed says so.
TEST_P(CommWorlds, EveryRankReceivesWhatWasSentToIt) {
  const auto& [transport, world] = GetParam();
  if (world > LargestWorld()) GTEST_SKIP() << "a world of " << world;
  constexpr uint64_t kSeed = 20240607;
  constexpr size_t kMax = 20000;
  const int rounds = (world <= 4 ? 400 : 1600 / world) / kSlowness;
  RunConnected(transport, world, kMax, [&](Rank& me, Exchange& exchange) {
    EXPECT_EQ(exchange.rank(), RankId(me.rank));
    EXPECT_EQ(exchange.world_size(), world);
    EXPECT_EQ(exchange.max_message_bytes(), kMax);
    std::mt19937 pauses(kSeed + me.rank);
    for (int round = 0; round < rounds; ++round) {
      const ExchangeTag dispatch = Tag(1, round / 3, round % 3, ExchangePhase::kDispatch);
      const ExchangeTag combine = Tag(1, round / 3, round % 3, ExchangePhase::kCombine);
      if (pauses() % 50 == 0) absl::SleepFor(absl::Microseconds(pauses() % 3000));
      ASSERT_EQ(SendAll(exchange, dispatch, kSeed, Soon()), absl::OkStatus());
      ASSERT_EQ(ReceiveAll(exchange, dispatch, kSeed, Soon()), absl::OkStatus());
      // As the engine does: the answer is written while the question is still held.
      ASSERT_EQ(SendAll(exchange, combine, kSeed, Soon()), absl::OkStatus());
      exchange.Release(dispatch);
      ASSERT_EQ(ReceiveAll(exchange, combine, kSeed, Soon()), absl::OkStatus());
      exchange.Release(combine);
    }
  });
}

// One rank never pauses and one always does; nothing is lost and nothing overtakes, over thousands
// of exchanges.
TEST_P(CommContract, ThousandsOfRoundsWithOneSlowRank) {
  constexpr uint64_t kSeed = 7;
  const int world = std::min(3, LargestWorld());
  RunConnected(transport(), world, 256, [&](Rank& me, Exchange& exchange) {
    for (int step = 0; step < 3000 / kSlowness; ++step) {
      const ExchangePhase phase =
          step % 2 == 0 ? ExchangePhase::kDispatch : ExchangePhase::kCombine;
      const ExchangeTag tag = Tag(1, step / 2, 0, phase);
      if (me.rank == 1 && step % 64 == 0) absl::SleepFor(absl::Milliseconds(1));
      ASSERT_EQ(SendAll(exchange, tag, kSeed, Soon()), absl::OkStatus());
      ASSERT_EQ(ReceiveAll(exchange, tag, kSeed, Soon()), absl::OkStatus());
      exchange.Release(tag);
    }
  });
}

TEST_P(CommContract, LargeMessagesArriveWhole) {
  constexpr uint64_t kSeed = 11;
  constexpr size_t kMax = 5 << 20;  // above gRPC's default limit of 4 MB
  RunConnected(transport(), std::min(3, LargestWorld()), kMax, [&](Rank&, Exchange& exchange) {
    for (int step = 0; step < 6; ++step) {
      const ExchangeTag tag = Tag(1, step, 0);
      ASSERT_EQ(SendAll(exchange, tag, kSeed, Soon()), absl::OkStatus());
      ASSERT_EQ(ReceiveAll(exchange, tag, kSeed, Soon()), absl::OkStatus());
      exchange.Release(tag);
    }
  });
}

TEST_P(CommContract, AWorldWithoutBytes) {
  RunConnected(transport(), 2, 0, [&](Rank&, Exchange& exchange) {
    for (int step = 0; step < 5; ++step) {
      const ExchangeTag tag = Tag(1, step, 0);
      for (int peer : {0, 1}) exchange.SendBuffer(tag, RankId(peer), Soon());
      ASSERT_EQ(exchange.Post(tag, std::vector<size_t>(2, 0)), absl::OkStatus());
      ASSERT_EQ(ReceiveAll(exchange, tag, 0, Soon()), absl::OkStatus());
      exchange.Release(tag);
    }
  });
}

// What was received stays untouched until it is released, while the next exchange of the same phase
// arrives beside it.
TEST_P(CommContract, TwoExchangesOfAPhaseMayBeHeld) {
  constexpr uint64_t kSeed = 3;
  RunConnected(transport(), 2, 4000, [&](Rank& me, Exchange& exchange) {
    for (int step = 0; step < 40; step += 2) {
      const ExchangeTag first = Tag(1, step, 0);
      const ExchangeTag second = Tag(1, step + 1, 0);
      ASSERT_EQ(SendAll(exchange, first, kSeed, Soon()), absl::OkStatus());
      ASSERT_EQ(SendAll(exchange, second, kSeed, Soon()), absl::OkStatus());
      std::vector<absl::Span<const std::byte>> held(2);
      ASSERT_EQ(exchange.Wait(first, Soon(), absl::MakeSpan(held)), absl::OkStatus());
      ASSERT_EQ(ReceiveAll(exchange, second, kSeed, Soon()), absl::OkStatus());
      for (int peer = 0; peer < 2; ++peer) {
        EXPECT_EQ(FirstWrongByte(kSeed, first, peer, me.rank, held[peer]), -1);
      }
      // In either order.
      exchange.Release(step % 4 == 0 ? second : first);
      exchange.Release(step % 4 == 0 ? first : second);
    }
  });
}

TEST_P(CommContract, ATimeoutNamesStepLayerPhasePeersAndBytes) {
  const int world = std::min(4, LargestWorld());
  RunConnected(transport(), world, 1000, [&](Rank& me, Exchange& exchange) {
    const ExchangeTag tag = Tag(1, 118, 5, ExchangePhase::kCombine);
    const bool silent = me.rank == 1 || me.rank == 3;
    if (silent) {
      me.meet();
      return;
    }
    for (int peer = 0; peer < world; ++peer) exchange.SendBuffer(tag, RankId(peer), Soon());
    ASSERT_EQ(exchange.Post(tag, std::vector<size_t>(world, 640)), absl::OkStatus());
    std::vector<absl::Span<const std::byte>> received(world);
    const absl::Time start = absl::Now();
    const absl::Status status =
        exchange.Wait(tag, start + absl::Milliseconds(200), absl::MakeSpan(received));
    const absl::Duration took = absl::Now() - start;
    EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
    EXPECT_THAT(
        status.message(),
        AllOf(HasSubstr("epoch 1 step 118 layer 5 combine"),
              HasSubstr(absl::StrCat("rank ", me.rank, " waits for rank")),
              HasSubstr(world == 4 ? "ranks 1, 3 (" : "rank 1 ("), HasSubstr("bytes outstanding")));
    if (SharesMemory(transport())) {
      EXPECT_THAT(status.message(),
                  HasSubstr(world == 4 ? "outstanding 640, 640" : "outstanding 640"));
    }
    std::vector<RankId> blamed = {RankId(1)};
    if (world == 4) blamed.push_back(RankId(3));
    EXPECT_EQ(BlamedPeers(status), blamed);
    EXPECT_GE(took, absl::Milliseconds(199));
    EXPECT_LE(took, absl::Seconds(5));
    me.meet();
  });
}

// A wait that timed out may be taken up again, and then succeeds.
TEST_P(CommContract, AWaitMayBeRepeatedAfterATimeout) {
  constexpr uint64_t kSeed = 5;
  RunConnected(transport(), 2, 1000, [&](Rank& me, Exchange& exchange) {
    const ExchangeTag tag = Tag(1, 0, 0);
    if (me.rank == 1) me.meet();
    ASSERT_EQ(SendAll(exchange, tag, kSeed, Soon()), absl::OkStatus());
    if (me.rank == 0) {
      EXPECT_TRUE(
          absl::IsDeadlineExceeded(ReceiveAll(exchange, tag, kSeed, In(absl::Milliseconds(50)))));
      me.meet();
    }
    EXPECT_EQ(ReceiveAll(exchange, tag, kSeed, Soon()), absl::OkStatus());
    exchange.Release(tag);
  });
}

// A sender is held back by a receiver that does not release: SendBuffer ends at its deadline and
// Post says why.
TEST_P(CommContract, BackPressureEndsAtTheDeadline) {
  constexpr size_t kMax = 1 << 20;
  RunConnected(transport(), 2, kMax, [&](Rank& me, Exchange& exchange) {
    if (me.rank == 1) {
      me.meet();
      return;
    }
    for (int step = 0; step < 3; ++step) {
      const ExchangeTag tag = Tag(1, step, 2);
      const absl::Time deadline = In(absl::Milliseconds(300));
      bool have = true;
      for (int peer : {1, 0})
        have = have && !exchange.SendBuffer(tag, RankId(peer), deadline).empty();
      const absl::Status status = exchange.Post(tag, std::vector<size_t>(2, kMax));
      EXPECT_EQ(have, status.ok());
      if (step < 2) {
        EXPECT_EQ(status, absl::OkStatus());
        continue;
      }
      // Two messages of a phase are under way to every rank, ourselves included: no third.
      EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
      EXPECT_THAT(status.message(),
                  AllOf(HasSubstr("step 2 layer 2 dispatch"), HasSubstr("rank 0 waits for rank"),
                        HasSubstr("bytes outstanding 2097152")));
      EXPECT_EQ(BlamedPeers(status).size(), 1u);
    }
    me.meet();
  });
}

TEST_P(CommContract, CancelEndsAWaitAtOnceAndHoldsUntilTheNextEpoch) {
  constexpr uint64_t kSeed = 9;
  RunConnected(transport(), 2, 1000, [&](Rank& me, Exchange& exchange) {
    if (me.rank == 0) {
      const ExchangeTag tag = Tag(1, 4, 4);
      ASSERT_EQ(SendAll(exchange, tag, kSeed, Soon()), absl::OkStatus());
      absl::Time cancelled;
      std::thread canceller([&] {
        absl::SleepFor(absl::Milliseconds(100));
        cancelled = absl::Now();
        exchange.Cancel();
      });
      const absl::Status status = ReceiveAll(exchange, tag, kSeed, Soon());
      const absl::Time ended = absl::Now();
      canceller.join();
      EXPECT_TRUE(absl::IsAborted(status)) << status;
      EXPECT_THAT(status.message(), HasSubstr("step 4 layer 4 dispatch"));
      EXPECT_LE(ended - cancelled, absl::Milliseconds(500));
      EXPECT_TRUE(absl::IsAborted(ReceiveAll(exchange, tag, kSeed, Soon())));
      EXPECT_TRUE(exchange.SendBuffer(Tag(1, 5, 4), RankId(1), Soon()).empty());
      EXPECT_TRUE(absl::IsAborted(exchange.Post(Tag(1, 5, 4), std::vector<size_t>(2, 0))));
    }
    me.meet();
    ASSERT_EQ(exchange.InstallEpoch(Epoch(2)), absl::OkStatus());
    const ExchangeTag tag = Tag(2, 4, 4);
    ASSERT_EQ(SendAll(exchange, tag, kSeed, Soon()), absl::OkStatus());
    ASSERT_EQ(ReceiveAll(exchange, tag, kSeed, Soon()), absl::OkStatus());
  });
}

TEST_P(CommContract, CancelEndsBackPressure) {
  RunConnected(transport(), 2, 1 << 20, [&](Rank& me, Exchange& exchange) {
    if (me.rank == 0) {
      std::thread canceller([&] {
        absl::SleepFor(absl::Milliseconds(300));
        exchange.Cancel();
      });
      const absl::Time start = absl::Now();
      absl::Status status;
      for (int step = 0; step < 100 && status.ok(); ++step) {
        for (int peer : {1, 0}) exchange.SendBuffer(Tag(1, step, 0), RankId(peer), Soon());
        status = exchange.Post(Tag(1, step, 0), std::vector<size_t>(2, 1 << 20));
      }
      canceller.join();
      EXPECT_TRUE(absl::IsAborted(status)) << status;
      EXPECT_LE(absl::Now() - start, absl::Seconds(10));
    }
    me.meet();
  });
}

// Messages of an epoch that ended are never delivered, though the receiver had not taken them, and
// one rank enters the new epoch long before the other.
TEST_P(CommContract, AnEpochForgetsWhatWasInFlight) {
  constexpr uint64_t kSeed = 13;
  RunConnected(transport(), 2, 60000, [&](Rank& me, Exchange& exchange) {
    for (int64_t epoch = 2; epoch < 30; epoch += 2) {
      // Rank 1 never takes these. Two of each phase fit everywhere.
      if (me.rank == 0) {
        for (int step = 0; step < 2; ++step) {
          ASSERT_EQ(SendAll(exchange, Tag(epoch - 1, step, 0), kSeed, Soon()), absl::OkStatus());
        }
      }
      me.meet();
      if (me.rank == epoch / 2 % 2) absl::SleepFor(absl::Milliseconds(3));
      ASSERT_EQ(exchange.InstallEpoch(Epoch(epoch)), absl::OkStatus());
      for (int step = 0; step < 3; ++step) {
        const ExchangeTag tag = Tag(epoch, step, 0);
        ASSERT_EQ(SendAll(exchange, tag, kSeed, Soon()), absl::OkStatus());
        ASSERT_EQ(ReceiveAll(exchange, tag, kSeed, Soon()), absl::OkStatus());
        exchange.Release(tag);
      }
      me.meet();
      ASSERT_EQ(exchange.InstallEpoch(Epoch(epoch + 1)), absl::OkStatus());
    }
  });
}

TEST_P(CommContract, AnotherEpochThanTheInstalledIsAborted) {
  RunConnected(transport(), 2, 100, [&](Rank& me, Exchange& exchange) {
    ASSERT_EQ(exchange.InstallEpoch(Epoch(4)), absl::OkStatus());
    std::vector<absl::Span<const std::byte>> received(2);
    for (int64_t epoch : {3, 5}) {
      const ExchangeTag tag = Tag(epoch, 0, 0);
      EXPECT_TRUE(exchange.SendBuffer(tag, RankId(1 - me.rank), Soon()).empty());
      EXPECT_TRUE(absl::IsAborted(exchange.Post(tag, std::vector<size_t>(2, 0))));
      EXPECT_TRUE(absl::IsAborted(exchange.Wait(tag, Soon(), absl::MakeSpan(received))));
      exchange.Release(tag);  // ignored
    }
    EXPECT_TRUE(absl::IsFailedPrecondition(exchange.InstallEpoch(Epoch(3))));
    EXPECT_EQ(exchange.InstallEpoch(Epoch(4)),
              absl::OkStatus());  // nothing was exchanged in it yet
  });
}

// A rank that is still in the old epoch learns so when a peer speaks from the next, and loses
// nothing by following.
TEST_P(CommContract, APeerInALaterEpochAbortsTheWait) {
  constexpr uint64_t kSeed = 15;
  RunConnected(transport(), 2, 5000, [&](Rank& me, Exchange& exchange) {
    if (me.rank == 0) {
      ASSERT_EQ(exchange.InstallEpoch(Epoch(2)), absl::OkStatus());
    } else {
      const absl::Status status = ReceiveAll(exchange, Tag(1, 0, 0), kSeed, Soon());
      EXPECT_TRUE(absl::IsAborted(status)) << status;
      EXPECT_THAT(status.message(), HasSubstr("rank 0 is in epoch 2"));
      ASSERT_EQ(exchange.InstallEpoch(Epoch(2)), absl::OkStatus());
    }
    ASSERT_EQ(SendAll(exchange, Tag(2, 0, 0), kSeed, Soon()), absl::OkStatus());
    EXPECT_EQ(ReceiveAll(exchange, Tag(2, 0, 0), kSeed, Soon()), absl::OkStatus());
  });
}

// The others have given up waiting and gone on, one of them first: that one is not to blame.
TEST_P(CommContract, WhoIsLateBlamesAllThatAreMissing) {
  if (!SharesMemory(transport())) GTEST_SKIP() << "a peer must speak for its epoch to be known";
  RunConnected(transport(), 3, 100, [&](Rank& me, Exchange& exchange) {
    if (me.rank == 1) {
      ASSERT_EQ(exchange.InstallEpoch(Epoch(2)), absl::OkStatus());
    }
    if (me.rank == 0) {
      const absl::Status status = ReceiveAll(exchange, Tag(1, 0, 0), 1, Soon());
      EXPECT_TRUE(absl::IsAborted(status)) << status;
      EXPECT_THAT(BlamedPeers(status), IsSupersetOf({RankId(1), RankId(2)}));
    }
    me.meet();
  });
}

TEST_P(CommContract, RanksThatLoseStepAreToldSo) {
  RunConnected(transport(), 2, 100, [&](Rank& me, Exchange& exchange) {
    const ExchangeTag mine = Tag(1, 6, me.rank == 0 ? 7 : 8);
    ASSERT_EQ(SendAll(exchange, mine, 1, Soon()), absl::OkStatus());
    const absl::Status status = ReceiveAll(exchange, mine, 1, Soon());
    EXPECT_TRUE(absl::IsInternal(status)) << status;
    EXPECT_THAT(status.message(),
                AllOf(HasSubstr(mine.ToString()),
                      HasSubstr(absl::StrCat("rank ", 1 - me.rank, " sent ",
                                             Tag(1, 6, me.rank == 0 ? 8 : 7).ToString()))));
    EXPECT_THAT(BlamedPeers(status), ElementsAre(RankId(1 - me.rank)));
  });
}

TEST_P(CommContract, RanksWithOtherMessageSizesAreRefused) {
  RunRanks(
      2, [&](int rank) { return Options(transport(), rank == 0 ? 1000 : 2000); },
      [&](Rank& me) {
        absl::StatusOr<Exchange*> exchange =
            me.fabric->Connect(Epoch(1), RankId(me.rank), me.endpoints, In(absl::Seconds(5)));
        EXPECT_TRUE(absl::IsFailedPrecondition(exchange.status())) << exchange.status();
        EXPECT_THAT(exchange.status().message(),
                    AllOf(HasSubstr("max_message_bytes"), HasSubstr("1000"), HasSubstr("2000"),
                          HasSubstr(absl::StrCat("rank ", 1 - me.rank))));
        me.meet();
      });
}

TEST_P(CommContract, ConnectingAgainInALaterEpochWorks) {
  constexpr uint64_t kSeed = 17;
  const int world = std::min(4, LargestWorld());
  RunConnected(transport(), world, 3000, [&](Rank& me, Exchange& exchange) {
    for (int64_t epoch = 1; epoch <= 4; ++epoch) {
      if (epoch > 1) {
        Exchange* again = me.Connect(epoch);
        ASSERT_EQ(again, &exchange);
      }
      for (int step = 0; step < 20; ++step) {
        const ExchangeTag tag = Tag(epoch, step, 0);
        ASSERT_EQ(SendAll(exchange, tag, kSeed, Soon()), absl::OkStatus());
        ASSERT_EQ(ReceiveAll(exchange, tag, kSeed, Soon()), absl::OkStatus());
        exchange.Release(tag);
      }
      me.meet();
    }
    absl::StatusOr<Exchange*> stale =
        me.fabric->Connect(Epoch(2), RankId(me.rank), me.endpoints, In(absl::Seconds(1)));
    EXPECT_TRUE(absl::IsFailedPrecondition(stale.status())) << stale.status();
  });
}

TEST_P(CommContract, ARosterThatCannotBeIsRefused) {
  RunRanks(
      2, [&](int) { return Options(transport(), 100); },
      [&](Rank& me) {
        const auto connect = [&](int64_t epoch, int rank, std::vector<std::string> endpoints) {
          return me.fabric->Connect(Epoch(epoch), RankId(rank), endpoints, In(absl::Seconds(1)))
              .status();
        };
        EXPECT_TRUE(absl::IsInvalidArgument(connect(0, me.rank, me.endpoints)));
        EXPECT_TRUE(absl::IsInvalidArgument(connect(1, -1, me.endpoints)));
        EXPECT_TRUE(absl::IsInvalidArgument(connect(1, 2, me.endpoints)));
        EXPECT_TRUE(absl::IsInvalidArgument(connect(1, 0, {})));
        const absl::Status other = connect(1, 1 - me.rank, me.endpoints);
        EXPECT_TRUE(absl::IsInvalidArgument(other));
        EXPECT_THAT(BlamedPeers(other), IsEmpty());
        me.meet();
      });
}

TEST_P(CommContract, APeerThatDoesNotConnectIsNamed) {
  RunRanks(
      2, [&](int) { return Options(transport(), 100); },
      [&](Rank& me) {
        if (me.rank == 0) {
          const absl::Time start = absl::Now();
          absl::StatusOr<Exchange*> exchange = me.fabric->Connect(Epoch(1), RankId(0), me.endpoints,
                                                                  start + absl::Milliseconds(200));
          EXPECT_TRUE(absl::IsDeadlineExceeded(exchange.status())) << exchange.status();
          EXPECT_THAT(exchange.status().message(),
                      AllOf(HasSubstr("rank 1"), HasSubstr(me.endpoints[1])));
          EXPECT_THAT(BlamedPeers(exchange.status()), ElementsAre(RankId(1)));
          EXPECT_LE(absl::Now() - start, absl::Seconds(5));
        }
        me.meet();
        // The next attempt, in a later epoch, is not disturbed by the remains of the first.
        EXPECT_NE(me.Connect(2), nullptr);
        me.meet();
      });
}

// --- Absent ranks ---------------------------------------------------------------------------------

// The roster with these ranks left out.
std::vector<std::string> Without(const Rank& me, std::vector<int> absent) {
  std::vector<std::string> endpoints = me.endpoints;
  for (int rank : absent) endpoints[rank].clear();
  return endpoints;
}

// `rounds` exchanges of an epoch among those who are present in it.
void Exchanges(Exchange& exchange, int64_t epoch, int rounds, uint64_t seed) {
  for (int round = 0; round < rounds; ++round) {
    const ExchangeTag dispatch = Tag(epoch, round, 0, ExchangePhase::kDispatch);
    const ExchangeTag combine = Tag(epoch, round, 0, ExchangePhase::kCombine);
    ASSERT_EQ(SendAll(exchange, dispatch, seed, Soon()), absl::OkStatus());
    ASSERT_EQ(ReceiveAll(exchange, dispatch, seed, Soon()), absl::OkStatus());
    ASSERT_EQ(SendAll(exchange, combine, seed, Soon()), absl::OkStatus());
    exchange.Release(dispatch);
    ASSERT_EQ(ReceiveAll(exchange, combine, seed, Soon()), absl::OkStatus());
    exchange.Release(combine);
  }
}

// Every epoch has other members; the exchange is the same object throughout, and nobody waits for
// those who are not there.
TEST_P(CommContract, RanksMayBeAbsentAndComeBack) {
  constexpr uint64_t kSeed = 23;
  const int world = std::min(4, LargestWorld());
  RunRanks(
      world, [&](int) { return Options(transport(), 3000); },
      [&](Rank& me) {
        Exchange* exchange = nullptr;
        const std::vector<std::vector<int>> absent = {{2}, {}, {0, world - 1}, {1}, {0, 1, 2}, {}};
        for (size_t i = 0; i < absent.size(); ++i) {
          const int64_t epoch = static_cast<int64_t>(i) + 1;
          const auto is_absent = [&](int rank) {
            return std::count(absent[i].begin(), absent[i].end(), rank) > 0;
          };
          if (!is_absent(me.rank)) {
            absl::StatusOr<Exchange*> connected = me.fabric->Connect(
                Epoch(epoch), RankId(me.rank), Without(me, absent[i]), Soon());
            ASSERT_TRUE(connected.ok()) << connected.status();
            ASSERT_TRUE(exchange == nullptr || exchange == *connected);
            exchange = *connected;
            for (int peer = 0; peer < world; ++peer) {
              EXPECT_EQ(exchange->Present(RankId(peer)), !is_absent(peer));
            }
            Exchanges(*exchange, epoch, 30, kSeed);
          }
          me.meet();
        }
      });
}

// The worst case of a false suspicion: a rank has its buffers in hand, stands still while the
// others go on without it, and then writes and posts what it had in mind. Nobody sees any of it,
// and it is told.
TEST_P(CommContract, WhoWasLeftOutCanDoNoHarm) {
  constexpr uint64_t kSeed = 29;
  constexpr size_t kMax = 20000;
  const int world = std::min(3, LargestWorld());
  RunConnected(transport(), world, kMax, [&](Rank& me, Exchange& exchange) {
    const bool left_out = me.rank == world - 1;
    Exchanges(exchange, 1, 5, kSeed);
    std::vector<absl::Span<std::byte>> buffers;
    const ExchangeTag stale = Tag(1, 100, 0);
    if (left_out) {
      for (int peer = 0; peer < world; ++peer) {
        buffers.push_back(exchange.SendBuffer(stale, RankId(peer), Soon()));
        ASSERT_FALSE(buffers.back().empty());
      }
    }
    me.meet();
    if (left_out) {
      const absl::Time end = In(absl::Milliseconds(300));
      for (int value = 0; absl::Now() < end; ++value) {
        for (absl::Span<std::byte> buffer : buffers) {
          std::fill(buffer.begin(), buffer.end(), static_cast<std::byte>(value));
        }
      }
      absl::Status status = exchange.Post(stale, std::vector<size_t>(world, kMax));
      std::vector<absl::Span<const std::byte>> received(world);
      status.Update(exchange.Wait(stale, In(absl::Milliseconds(500)), absl::MakeSpan(received)));
      EXPECT_FALSE(status.ok());
    } else {
      absl::StatusOr<Exchange*> without =
          me.fabric->Connect(Epoch(2), RankId(me.rank), Without(me, {world - 1}), Soon());
      ASSERT_TRUE(without.ok()) << without.status();
      Exchanges(exchange, 2, 1500, kSeed);
    }
    me.meet();
    ASSERT_EQ(me.Connect(3), &exchange);  // it is back
    Exchanges(exchange, 3, 30, kSeed);
  });
}

// A process that has died is replaced by another one, under the same rank.
TEST_P(CommContract, ANewcomerMayTakeTheRankOfOneThatIsGone) {
  if (transport() == "mpi") GTEST_SKIP() << "an MPI rank is never replaced";
  constexpr uint64_t kSeed = 31;
  absl::Mutex mutex;
  std::string successor;  // its endpoint
  RunConnected(transport(), 3, 3000, [&](Rank& me, Exchange& exchange) {
    Exchanges(exchange, 1, 10, kSeed);
    me.meet();
    if (me.rank == 1) {
      me.fabric = *Fabric::Create(me.options);
      absl::MutexLock lock(&mutex);
      successor = me.fabric->endpoint();
    } else {
      absl::StatusOr<Exchange*> without =
          me.fabric->Connect(Epoch(2), RankId(me.rank), Without(me, {1}), Soon());
      ASSERT_TRUE(without.ok()) << without.status();
      Exchanges(exchange, 2, 10, kSeed);
    }
    me.meet();
    {
      absl::MutexLock lock(&mutex);
      me.endpoints[1] = successor;
    }
    Exchange* again = me.Connect(3);
    ASSERT_NE(again, nullptr);
    Exchanges(*again, 3, 10, kSeed);
  });
}

TEST_P(CommContract, ALaterEpochEndsAConnectAtOnce) {
  RunRanks(
      2, [&](int) { return Options(transport(), 100); },
      [&](Rank& me) {
        const auto connect = [&](int64_t epoch) {
          return me.fabric->Connect(Epoch(epoch), RankId(me.rank), me.endpoints, Soon()).status();
        };
        if (me.rank == 0) {
          absl::Time abandoned;
          std::thread announcer([&] {
            absl::SleepFor(absl::Milliseconds(100));
            abandoned = absl::Now();
            me.fabric->Abandon(Epoch(3));
          });
          const absl::Status status = connect(1);
          const absl::Time ended = absl::Now();
          announcer.join();
          EXPECT_TRUE(absl::IsAborted(status)) << status;
          EXPECT_THAT(status.message(), AllOf(HasSubstr("epoch 1"), HasSubstr("epoch 3")));
          EXPECT_LE(ended - abandoned, absl::Milliseconds(500));
          EXPECT_TRUE(absl::IsAborted(connect(2)));
          me.fabric->Abandon(Epoch(2));  // late news change nothing
        }
        me.meet();
        EXPECT_NE(me.Connect(3), nullptr);
        me.meet();
      });
}

TEST_P(CommContract, AWaitTellsForWhomItWaited) {
  const int world = std::min(3, LargestWorld());
  RunConnected(transport(), world, 100, [&](Rank& me, Exchange& exchange) {
    const std::vector<size_t> bytes(world, 10);
    std::vector<absl::Span<const std::byte>> received(world);
    const auto post = [&](const ExchangeTag& tag) {
      for (int peer = 0; peer < world; ++peer) exchange.SendBuffer(tag, RankId(peer), Soon());
      ASSERT_EQ(exchange.Post(tag, bytes), absl::OkStatus());
    };
    const ExchangeTag late = Tag(1, 0, 0);
    const ExchangeTag never = Tag(1, 1, 0);
    if (me.rank == 1) absl::SleepFor(absl::Milliseconds(200));
    post(late);
    ASSERT_EQ(exchange.Wait(late, Soon(), absl::MakeSpan(received)), absl::OkStatus());
    if (me.rank != 1) {
      const absl::Span<const absl::Duration> waited = exchange.Waited();
      ASSERT_EQ(waited.size(), static_cast<size_t>(world));
      EXPECT_EQ(waited[me.rank], absl::ZeroDuration());
      EXPECT_GT(waited[1], absl::Milliseconds(100));
      for (int peer = 0; peer < world; ++peer) EXPECT_LE(waited[peer], waited[1]);
    }
    exchange.Release(late);
    me.meet();
    // What never came has the whole of a wait that failed.
    if (me.rank != 1) {
      post(never);
      ASSERT_TRUE(absl::IsDeadlineExceeded(
          exchange.Wait(never, In(absl::Milliseconds(150)), absl::MakeSpan(received))));
      EXPECT_GT(exchange.Waited()[1], absl::Milliseconds(140));
    }
  });
}

std::string Name(const ::testing::TestParamInfo<std::string>& info) { return info.param; }

INSTANTIATE_TEST_SUITE_P(Comm, CommContract, ::testing::ValuesIn(Transports()), Name);

INSTANTIATE_TEST_SUITE_P(Comm, CommWorlds,
                         ::testing::Combine(::testing::ValuesIn(Transports()),
                                            ::testing::Values(1, 2, 3, 4, 5, 8, 13, 16)),
                         [](const ::testing::TestParamInfo<std::tuple<std::string, int>>& info) {
                           return absl::StrCat(std::get<0>(info.param), "_",
                                               std::get<1>(info.param));
                         });

}  // namespace
}  // namespace shoal::comm_test
