// SPDX-License-Identifier: Apache-2.0
// Shows that an error about peers says about whom, for programs: each kind that an exchange or a
// connect can make, and however often its message is added to on the way up.
#include "absl/strings/cord.h"
#include "comm/connect.h"
#include "comm/exchange_errors.h"
#include "comm/message_header.h"
#include "comm/peer_board.h"
#include "engine/parallel/blamed_peers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shoal {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr ExchangeTag kTag = {Epoch(3), StepId(118), 5, ExchangePhase::kCombine};
constexpr RankId kSelf{2};

TEST(BlamedPeers, AreThoseWhoWereBlamedLast) {
  const absl::Status plain = absl::UnavailableError("gone");
  EXPECT_THAT(BlamedPeers(plain), IsEmpty());
  EXPECT_THAT(BlamedPeers(absl::OkStatus()), IsEmpty());
  const absl::Status blaming = BlamePeers(plain, {RankId(4), RankId(0), RankId(4095)});
  EXPECT_THAT(BlamedPeers(blaming), ElementsAre(RankId(4), RankId(0), RankId(4095)));
  EXPECT_EQ(blaming.message(), "gone");
  EXPECT_THAT(BlamedPeers(BlamePeers(blaming, {RankId(1)})), ElementsAre(RankId(1)));
  EXPECT_EQ(BlamePeers(blaming, {}), plain);
  EXPECT_THAT(BlamedPeers(BlamePeers(absl::OkStatus(), {RankId(1)})), IsEmpty());
}

TEST(BlamedPeers, StayWhenTheMessageIsAddedTo) {
  absl::Status status = BlamePeers(absl::DataLossError("bent"), {RankId(1)});
  status.SetPayload("another", absl::Cord("payload"));
  const absl::Status reworded = Reworded(status, "quite bent");
  EXPECT_TRUE(absl::IsDataLoss(reworded));
  EXPECT_EQ(reworded.message(), "quite bent");
  EXPECT_EQ(reworded.GetPayload("another"), absl::Cord("payload"));
  EXPECT_THAT(BlamedPeers(reworded), ElementsAre(RankId(1)));
  const absl::Status in_exchange = InExchange(kTag, kSelf, reworded);
  EXPECT_EQ(in_exchange.message(), "epoch 3 step 118 layer 5 combine: rank 2: quite bent");
  EXPECT_THAT(BlamedPeers(in_exchange), ElementsAre(RankId(1)));
  EXPECT_THAT(BlamedPeers(InExchange(kTag, kSelf, absl::AbortedError("cancelled"))), IsEmpty());
}

TEST(BlamedPeers, OfEveryErrorOfAnExchange) {
  const MissingPeer missing[] = {{RankId(1), 10}, {RankId(3), 0}};
  EXPECT_THAT(BlamedPeers(TimeoutError(kTag, kSelf, missing)), ElementsAre(RankId(1), RankId(3)));
  EXPECT_THAT(BlamedPeers(BackPressureError(kTag, kSelf, missing[0])), ElementsAre(RankId(1)));
  const absl::Status gone = GoneError(kTag, kSelf, RankId(3), "has left");
  EXPECT_EQ(gone.message(), "epoch 3 step 118 layer 5 combine: rank 2: rank 3 has left");
  EXPECT_THAT(BlamedPeers(gone), ElementsAre(RankId(3)));
  const absl::Status bent = ParseMessageHeader({}, 0).status();
  const absl::Status bad = BadMessage(kTag, kSelf, RankId(1), bent);
  EXPECT_TRUE(absl::IsDataLoss(bad)) << bad;
  EXPECT_THAT(bad.message(), HasSubstr("combine: rank 2: from rank 1: message header: want 64"));
  EXPECT_THAT(BlamedPeers(bad), ElementsAre(RankId(1)));
  // Whoever is in another epoch is not at fault.
  EXPECT_THAT(BlamedPeers(EpochError(kTag, kSelf, Epoch(4), "rank 1")), IsEmpty());
}

TEST(BlamedPeers, OfALostLink) {
  PeerBoard board(4);
  EXPECT_THAT(BlamedPeers(board.status()), IsEmpty());
  board.Fail(RankId(3), absl::UnavailableError("is gone: killed"));
  EXPECT_EQ(board.status().message(), "rank 3 is gone: killed");
  EXPECT_THAT(BlamedPeers(InExchange(kTag, kSelf, board.status())), ElementsAre(RankId(3)));
  board.Cancel();
  EXPECT_THAT(BlamedPeers(board.status()), IsEmpty());
}

TEST(BlamedPeers, OfAConnect) {
  Hello mine;
  mine.epoch = Epoch(7);
  mine.rank = kSelf;
  mine.world = 3;
  const std::vector<std::string> endpoints = {"a", "b", "c"};
  const absl::Status status = ConnectError(mine, endpoints, {RankId(1), RankId(0)},
                                           absl::InvalidArgumentError("no endpoint"));
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_EQ(status.message(),
            "connecting epoch 7: rank 2 and rank 1 (b): no endpoint (so have 1 others)");
  EXPECT_THAT(BlamedPeers(status), ElementsAre(RankId(1), RankId(0)));
  // A call that cannot be is nobody else's fault.
  const absl::Status own = BeginConnect({}, "c", nullptr, Epoch(7), RankId(1), endpoints).status();
  EXPECT_TRUE(absl::IsInvalidArgument(own)) << own;
  EXPECT_THAT(BlamedPeers(own), IsEmpty());
}

}  // namespace
}  // namespace shoal
