// SPDX-License-Identifier: Apache-2.0
// Shows that transport shm takes nothing from its host on trust: a peer played by hand passes
// memory that could be pulled from under us, strangers call and talk nonsense, another user dials,
// and endpoints lie on other hosts.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "comm/fabric.h"
#include "comm/hello.h"
#include "comm/shm/local_socket.h"
#include "comm/shm/segment.h"
#include "comm/shm/shm_endpoint.h"
#include "engine/parallel/blamed_peers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/comm_ranks.h"

namespace shoal::comm_test {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr size_t kMax = 1000;

absl::Time In(absl::Duration duration) { return absl::Now() + duration; }

// Waits for a packet.
absl::StatusOr<Packet> Receive(const UniqueFd& socket) {
  for (const absl::Time deadline = In(absl::Seconds(20)); absl::Now() < deadline;) {
    absl::StatusOr<std::optional<Packet>> packet = ReceivePacket(socket);
    if (!packet.ok()) return packet.status();
    if (packet->has_value()) return **std::move(packet);
    absl::SleepFor(absl::Milliseconds(1));
  }
  return absl::DeadlineExceededError("no packet");
}

// Rank 1 is a real fabric; rank 0, which dials, is the test.
class CommShm : public ::testing::Test {
 protected:
  CommShm()
      : fabric_(Fabric::Create(Options("shm", kMax)).value()),
        here_(ShmEndpoint::MakeHere("test").value()),
        listener_(ListenLocal(here_.socket).value()),
        endpoints_({here_.ToString(), fabric_->endpoint()}) {}

  Hello OurHello() const {
    return {.cluster = "contract-test",
            .epoch = Epoch(1),
            .rank = RankId(0),
            .world = 2,
            .max_message_bytes = kMax,
            .endpoint = endpoints_[0]};
  }
  UniqueFd Dial() const {
    return DialLocal(ShmEndpoint::Parse(endpoints_[1]).value().socket).value();
  }
  absl::Status Connect(absl::Duration patience = absl::Seconds(20)) {
    return fabric_->Connect(Epoch(1), RankId(1), endpoints_, In(patience)).status();
  }
  // What the fabric says when we introduce ourselves with `fd`.
  absl::Status ConnectWith(int fd) {
    const UniqueFd socket = Dial();
    EXPECT_EQ(SendPacket(socket, EncodeHello(OurHello()), fd), absl::OkStatus());
    return Connect();
  }

  std::unique_ptr<Fabric> fabric_;
  ShmEndpoint here_;
  UniqueFd listener_;
  std::vector<std::string> endpoints_;
};

TEST_F(CommShm, AnHonestPeerIsConnected) {
  const Segment segment = CreateSegment(kMax).value();
  const UniqueFd socket = Dial();
  ASSERT_EQ(SendPacket(socket, EncodeHello(OurHello()), segment.fd.get()), absl::OkStatus());
  ASSERT_EQ(Connect(), absl::OkStatus());
  const Packet packet = Receive(socket).value();
  EXPECT_EQ(ParseHelloReply(packet.bytes).value().verdict, absl::OkStatus());
  EXPECT_TRUE(MapSegment(packet.fd, kMax).ok());
}

TEST_F(CommShm, MemoryThatCouldBePulledAwayIsRefused) {
  const size_t bytes = Lane::Bytes(kMax).value();
  const UniqueFd unsealed(memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(ftruncate(unsealed.get(), static_cast<off_t>(bytes)), 0);
  const absl::Status status = ConnectWith(unsealed.get());
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_THAT(status.message(), AllOf(HasSubstr("rank 0"), HasSubstr("no sealed lane")));
}

TEST_F(CommShm, MemoryOfAnotherSizeIsRefused) {
  const Segment small = CreateSegment(kMax / 10).value();
  EXPECT_TRUE(CreateSegment(kMax * 100).ok());
  const Segment large = CreateSegment(kMax * 100).value();
  EXPECT_FALSE(MapSegment(large.fd, kMax).ok());
  EXPECT_FALSE(MapSegment(UniqueFd(), kMax).ok());
  EXPECT_FALSE(MapSegment(UniqueFd(open("/dev/null", O_RDWR | O_CLOEXEC)), kMax).ok());
  EXPECT_TRUE(MapSegment(small.fd, kMax / 10).ok());
  EXPECT_TRUE(absl::IsDataLoss(ConnectWith(large.fd.get())));
}

TEST_F(CommShm, AHelloWithoutMemoryIsRefused) { EXPECT_TRUE(absl::IsDataLoss(ConnectWith(-1))); }

// Nonsense, silence, hanging up, another epoch and another endpoint: none keeps the real peer out.
TEST_F(CommShm, StrangersDoNotKeepThePeerOut) {
  const UniqueFd silent = Dial();
  const UniqueFd nonsense = Dial();
  ASSERT_EQ(SendPacket(nonsense, "nonsense", -1), absl::OkStatus());
  const UniqueFd long_one = Dial();
  (void)SendPacket(long_one, std::string(100000, 'x'), -1);
  { const UniqueFd gone = Dial(); }
  Hello lie = OurHello();
  lie.endpoint = "shm:elsewhere:socket";
  const UniqueFd impostor = Dial();
  ASSERT_EQ(SendPacket(impostor, EncodeHello(lie), -1), absl::OkStatus());
  lie = OurHello();
  lie.epoch = Epoch(0);
  const UniqueFd late = Dial();
  ASSERT_EQ(SendPacket(late, EncodeHello(lie), -1), absl::OkStatus());

  const Segment segment = CreateSegment(kMax).value();
  const UniqueFd socket = Dial();
  ASSERT_EQ(SendPacket(socket, EncodeHello(OurHello()), segment.fd.get()), absl::OkStatus());
  EXPECT_EQ(Connect(), absl::OkStatus());
  EXPECT_TRUE(
      absl::IsFailedPrecondition(ParseHelloReply(Receive(impostor).value().bytes).value().verdict));
  EXPECT_TRUE(absl::IsAborted(ParseHelloReply(Receive(late).value().bytes).value().verdict));
}

// A peer that hangs up before it introduced itself is waited for.
TEST_F(CommShm, APeerThatNeverSpeaksIsNamed) {
  const UniqueFd silent = Dial();
  const absl::Status status = Connect(absl::Milliseconds(200));
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_THAT(status.message(), AllOf(HasSubstr("rank 0"), HasSubstr(endpoints_[0])));
}

TEST_F(CommShm, AnotherUserIsHungUpOn) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can become another user";
  const std::string name = ShmEndpoint::Parse(endpoints_[1]).value().socket;
  const pid_t child = fork();
  if (child == 0) {
    if (setuid(65534) != 0) _exit(2);
    // The listener is root's, so the stranger trusts it; it is the listener that must not trust the
    // stranger.
    const absl::StatusOr<UniqueFd> socket = DialLocal(name);
    if (!socket.ok()) _exit(3);
    (void)SendPacket(*socket, EncodeHello(OurHello()), -1);
    for (int i = 0; i < 2000; ++i) {
      if (!ReceivePacket(*socket).ok()) _exit(0);  // hung up on
      usleep(1000);
    }
    _exit(1);
  }
  EXPECT_TRUE(absl::IsDeadlineExceeded(Connect(absl::Milliseconds(500))));
  int status = -1;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
}

TEST_F(CommShm, EndpointsOfOtherHostsAndTransportsAreRefused) {
  const auto connect = [&](const std::string& peer) {
    const std::vector<std::string> endpoints = {peer, endpoints_[1]};
    return fabric_->Connect(Epoch(1), RankId(1), endpoints, In(absl::Seconds(1))).status();
  };
  ShmEndpoint elsewhere = here_;
  elsewhere.host = "another-boot/1";
  const absl::Status status = connect(elsewhere.ToString());
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(status.message(), AllOf(HasSubstr("rank 0"), HasSubstr("another-boot")));
  EXPECT_THAT(BlamedPeers(status), ElementsAre(RankId(0)));
  for (const std::string bad : {"shm:", "shm:host", "shm:host:", "grpc:127.0.0.1:1"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(connect(bad))) << bad;
    EXPECT_THAT(BlamedPeers(connect(bad)), ElementsAre(RankId(0))) << bad;
  }
  EXPECT_TRUE(absl::IsInvalidArgument(connect("shm:host:" + std::string(300, 'x'))));
}

TEST_F(CommShm, AllRanksThatDoNotFitAreBlamed) {
  ShmEndpoint elsewhere = here_;
  elsewhere.host = "another-boot/1";
  const std::vector<std::string> endpoints = {here_.ToString(), endpoints_[1], elsewhere.ToString(),
                                              "", "x"};
  const absl::Status status =
      fabric_->Connect(Epoch(1), RankId(1), endpoints, In(absl::Seconds(1))).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(status.message(), AllOf(HasSubstr("connecting epoch 1: rank 1 and rank 2 (shm:"),
                                      HasSubstr("(so have 1 others)")));
  EXPECT_THAT(BlamedPeers(status), ElementsAre(RankId(2), RankId(4)));
}

// A peer may refuse with any code: what it says is no verdict on our own call.
TEST_F(CommShm, ACodeThatAPeerSentBlamesThePeer) {
  const std::unique_ptr<Fabric> fabric = Fabric::Create(Options("shm", kMax)).value();
  absl::Status status;
  std::thread caller([&] {
    status = fabric
                 ->Connect(Epoch(1), RankId(0), {fabric->endpoint(), here_.ToString()},
                           In(absl::Seconds(20)))
                 .status();
  });
  UniqueFd socket;
  while (!socket) socket = AcceptLocal(listener_);
  ASSERT_TRUE(Receive(socket).ok());
  const HelloReply refusal = {.verdict = absl::InvalidArgumentError("your face"), .hello = {}};
  ASSERT_EQ(SendPacket(socket, EncodeHelloReply(refusal), -1), absl::OkStatus());
  caller.join();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(BlamedPeers(status), ElementsAre(RankId(1)));
}

// The lower rank dials: a peer that has died is known at once.
TEST_F(CommShm, ADeadEndpointIsKnownAtOnce) {
  std::unique_ptr<Fabric> other = Fabric::Create(Options("shm", kMax)).value();
  const std::vector<std::string> endpoints = {fabric_->endpoint(), other->endpoint()};
  other.reset();
  const absl::Time start = absl::Now();
  const absl::Status status =
      fabric_->Connect(Epoch(1), RankId(0), endpoints, start + absl::Seconds(20)).status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_LT(absl::Now() - start, absl::Seconds(5));
}

TEST(CommFabric, UnknownTransportsAndSizesAreRefused) {
  EXPECT_TRUE(absl::IsInvalidArgument(Fabric::Create(Options("carrier-pigeon", 1)).status()));
  for (const std::string transport : {"inprocess", "shm", "grpc"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(
        Fabric::Create(Options(transport, std::numeric_limits<size_t>::max())).status()));
  }
}

}  // namespace
}  // namespace shoal::comm_test
