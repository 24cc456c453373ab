// SPDX-License-Identifier: Apache-2.0
// Shows who is let in: a worker that differs in one thing is refused with both values, an endpoint
// that no peer could dial is refused before a peer tries, and one that dials anew is itself.
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/link_fixture.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;

class LinkHelloTest : public LinkTest {};

TEST_F(LinkHelloTest, AHelloBecomesWorkerJoined) {
  Start();
  proto::Hello hello = GoodHello();
  hello.set_wanted_rank(3);
  hello.set_last_epoch(41);
  hello.set_boot_nonce(99);
  auto worker = Dial(hello);
  const Event event = events_.Next();
  const auto* joined = std::get_if<WorkerJoined>(&event);
  ASSERT_NE(joined, nullptr);
  EXPECT_EQ(joined->host, "here");
  EXPECT_EQ(joined->pid, 4711);
  EXPECT_EQ(joined->cache_blocks, 100);
  EXPECT_EQ(joined->wanted_rank, RankId(3));
  EXPECT_FALSE(joined->rank_fixed);
  EXPECT_EQ(joined->last_epoch, Epoch(41));
  EXPECT_EQ(joined->boot_nonce, 99);
}

TEST_F(LinkHelloTest, AWorkerThatDiffersIsRefusedWithBothValues) {
  Start();
  auto first = Dial(GoodHello());
  Join(*first);
  const std::vector<std::pair<std::function<void(proto::Hello&)>, std::vector<std::string>>> cases =
      {
          {[](proto::Hello& hello) { hello.set_protocol_version(2); },
           {"protocol version", "'1'", "'2'"}},
          {[](proto::Hello& hello) { hello.set_build("build-b"); },
           {"build", "'build-a'", "'build-b'"}},
          {[](proto::Hello& hello) { hello.set_model("model-b"); },
           {"fingerprint of the weights", "'a'", "'b'"}},
          {[](proto::Hello& hello) { hello.set_model("other-a"); },
           {"fingerprint of config.json", "'model'", "'other'"}},
          {[](proto::Hello& hello) { hello.set_numerics("cpu"); },
           {"numerics", "'reference'", "'cpu'"}},
          {[](proto::Hello& hello) { hello.set_transport("grpc"); },
           {"transport", "'shm'", "'grpc'"}},
          {[](proto::Hello& hello) { hello.set_cluster("cluster-b"); },
           {"cluster-name", "'cluster-a'", "'cluster-b'"}},
          {[](proto::Hello& hello) { hello.clear_cluster(); },
           {"cluster-name", "'cluster-a'", "''"}},
          {[](proto::Hello& hello) { hello.set_block_tokens(32); },
           {"block-tokens", "'16'", "'32'"}},
          {[](proto::Hello& hello) { hello.set_max_batch_rows(1); },
           {"max-batch-rows", "'64'", "'1'"}},
          {[](proto::Hello& hello) { hello.set_max_running(9); }, {"max-running", "'8'", "'9'"}},
          {[](proto::Hello& hello) { hello.set_cache_blocks(0); }, {"0 cache blocks"}},
          {[](proto::Hello& hello) { hello.clear_endpoint(); }, {"no endpoint"}},
      };
  for (const auto& [change, facts] : cases) {
    proto::Hello hello = GoodHello();
    change(hello);
    auto worker = Dial(hello);
    const absl::Status status = worker->Receive(Soon()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    for (const std::string& fact : facts)
      EXPECT_THAT(std::string(status.message()), HasSubstr(fact));
  }
  // Nobody but the first has joined or been lost.
  EXPECT_TRUE(std::holds_alternative<Tick>(events_.Next(absl::Milliseconds(50))));
}

TEST_F(LinkHelloTest, ANamedClusterTakesNoFirstWorkerOfAnotherName) {
  Start([](WorkerLinkOptions& options) { options.identity.cluster = "cluster-b"; });
  auto worker = Dial(GoodHello());
  const absl::Status status = worker->Receive(Soon()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("cluster-name: the cluster has 'cluster-b', the worker 'cluster-a'"));
}

TEST_F(LinkHelloTest, AWorkerTooManyHearsThatItStandsBy) {
  Start([](WorkerLinkOptions& options) { options.workers = 2; });
  std::vector<std::unique_ptr<CoordinatorLink>> workers;
  for (int i = 0; i < 2; ++i) {
    workers.push_back(Dial(GoodHello()));
    Join(*workers.back());
    const auto nothing = workers.back()->Receive(absl::Now() + absl::Milliseconds(50));
    ASSERT_TRUE(nothing.ok()) << nothing.status();
    EXPECT_EQ(*nothing, nullptr);
  }
  workers.push_back(Dial(GoodHello()));
  Join(*workers.back());
  const auto message = workers.back()->Receive(Soon());
  ASSERT_TRUE(message.ok()) << message.status();
  ASSERT_NE(*message, nullptr);
  ASSERT_TRUE((*message)->has_standby());
  EXPECT_EQ((*message)->standby().workers(), 2);
  EXPECT_EQ((*message)->standby().connected(), 3);
}

TEST_F(LinkHelloTest, NumericsAreTheFirstWorkersAsLongAsOneIsThere) {
  Start();
  {
    auto first = Dial(GoodHello());
    Join(*first);
  }
  EXPECT_TRUE(std::holds_alternative<WorkerLost>(events_.Next()));
  proto::Hello other = GoodHello();
  other.set_numerics("cpu");
  auto second = Dial(other);
  Join(*second);
}

TEST_F(LinkHelloTest, NumericsAreKeptOnceARankWasAssigned) {
  Start();
  {
    auto first = Dial(GoodHello());
    AssignRank command;
    command.worker = Join(*first);
    command.members = std::make_shared<const UnitMembers>(UnitMembers{command.worker});
    command.epoch = Epoch(1);
    command.rank = RankId(0);
    link_->Execute(command);
    ASSERT_TRUE(first->Receive(Soon()).ok());
  }
  EXPECT_TRUE(std::holds_alternative<WorkerLost>(events_.Next()));
  proto::Hello other = GoodHello();
  other.set_numerics("cpu");
  auto second = Dial(other);
  const auto refusal = second->Receive(Soon());
  EXPECT_EQ(refusal.status().code(), absl::StatusCode::kFailedPrecondition) << refusal.status();
  EXPECT_THAT(std::string(refusal.status().message()), ::testing::HasSubstr("numerics"));
}

// One that comes from another coordinator is ahead of ours, but not by more than that one lived to
// see.
TEST_F(LinkHelloTest, ALastEpochThatCannotBeIsRefusedAndNoneOfOurOwn) {
  Start();
  const auto refusal = [&](int64_t last_epoch) {
    proto::Hello hello = GoodHello();
    hello.set_last_epoch(last_epoch);
    auto worker = Dial(hello);
    return worker->Receive(absl::Now() + absl::Milliseconds(300)).status();
  };
  const int64_t lead = int64_t{1} << 32;
  for (const int64_t wrong :
       {int64_t{-1}, lead + 1, int64_t{1} << 62, std::numeric_limits<int64_t>::max()}) {
    const absl::Status status = refusal(wrong);
    EXPECT_EQ(status.code(), absl::StatusCode::kOutOfRange) << status;
    EXPECT_THAT(std::string(status.message()),
                HasSubstr(absl::StrCat("its last epoch is ", wrong)));
  }
  proto::Hello hello = GoodHello();
  hello.set_last_epoch(lead);
  auto member = Dial(hello);
  AssignRank command;
  command.worker = Join(*member);
  command.members = std::make_shared<const UnitMembers>(UnitMembers{command.worker});
  command.epoch = Epoch(lead + 1);
  command.rank = RankId(0);
  link_->Execute(command);
  ASSERT_TRUE(member->Receive(Soon()).ok());
  EXPECT_EQ(refusal(lead + 1), absl::OkStatus());  // it dials again
  EXPECT_EQ(refusal(2 * lead + 2).code(), absl::StatusCode::kOutOfRange);
}

TEST_F(LinkHelloTest, ARedialReplacesTheOldConnection) {
  Start();
  proto::Hello hello = GoodHello();
  hello.set_boot_nonce(99);
  auto first = Dial(hello);
  const WorkerId old = Join(*first);
  auto second = Dial(hello);
  const Event lost = events_.Next();
  ASSERT_TRUE(std::holds_alternative<WorkerLost>(lost));
  EXPECT_EQ(std::get<WorkerLost>(lost).worker, old);
  EXPECT_NE(Join(*second), old);
}

TEST_F(LinkHelloTest, AnEndpointThatNoPeerCouldDialIsRefused) {
  const std::vector<std::pair<std::string, std::vector<std::string>>> cases = {
      {"grpc",
       {"x", "grpc:", "grpc:host", "grpc::1", "grpc:host:", "grpc:host:0", "grpc:host:65536",
        "grpc:host:-1", "grpc:host:9x", "grpc:a host:9", "grpc:::1:9", "shm:host:socket",
        "grpc:" + std::string(5000, 'x') + ":9"}},
      {"shm", {"x", "shm:", "shm:host", "shm:host:", "shm:host:" + std::string(101, 'x')}},
      {"inprocess", {"x", "inprocess:", "inprocess:x"}},
      {"mpi", {"x", "mpi:", "mpi:1", "mpi:x:host"}},
      {"sim", {std::string(5000, 'x')}}};
  for (const auto& [transport, endpoints] : cases) {
    for (const std::string& endpoint : endpoints) {
      Start();
      proto::Hello hello = GoodHello();
      hello.set_transport(transport);
      hello.set_endpoint(endpoint);
      const absl::Status status = Dial(hello)->Receive(Soon()).status();
      EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << endpoint;
      EXPECT_THAT(std::string(status.message()),
                  HasSubstr(absl::StrCat("worker refused: not an endpoint of transport ", transport,
                                         ": '", endpoint.substr(0, 20))));
    }
  }
  for (const auto& [transport, endpoint] :
       std::vector<std::pair<std::string, std::string>>{{"grpc", "grpc:worker-7.example:50051"},
                                                        {"grpc", "grpc:[fe80::1%eth0]:1"},
                                                        {"shm", "shm:5c8a/4026531840:shoal-x-1-f"},
                                                        {"inprocess", "inprocess:0"},
                                                        {"mpi", "mpi:12:host:99"},
                                                        {"sim", "process1/0"}}) {
    Start();
    proto::Hello hello = GoodHello();
    hello.set_transport(transport);
    hello.set_endpoint(endpoint);
    auto worker = Dial(hello);
    EXPECT_NE(Join(*worker), WorkerId(-1)) << endpoint;
    worker.reset();
    EXPECT_TRUE(std::holds_alternative<WorkerLost>(events_.Next()));
  }
}

TEST_F(LinkHelloTest, TransportShmTakesWorkersOfOneHostOnly) {
  Start();
  proto::Hello hello = GoodHello();
  hello.set_boot_nonce(99);
  auto first = Dial(hello);
  Join(*first);
  proto::Hello other = GoodHello();
  other.set_endpoint("shm:elsewhere:socket");
  other.set_host("there");
  const absl::Status status = Dial(other)->Receive(Soon()).status();
  EXPECT_EQ(status, absl::FailedPreconditionError(
                        "worker refused: transport shm joins workers of one host: the others are "
                        "on here (here), this one is on there (elsewhere); use transport grpc"));
  // One that dials anew is no other, and one of this host is welcome.
  auto again = Dial(hello);
  EXPECT_TRUE(std::holds_alternative<WorkerLost>(events_.Next()));
  Join(*again);
  {
    auto second = Dial(GoodHello());
    Join(*second);
  }
  EXPECT_TRUE(std::holds_alternative<WorkerLost>(events_.Next()));
  // Nor is it, when it is alone, where it has moved to; and whoever is there alone says where.
  hello.set_endpoint("shm:elsewhere:socket");
  auto moved = Dial(hello);
  EXPECT_TRUE(std::holds_alternative<WorkerLost>(events_.Next()));
  Join(*moved);
  auto third = Dial(other);
  Join(*third);
}

TEST(LinkHello, AConnectionWithoutAHelloIsClosed) {
  WorkerLinkOptions options;
  options.hello_timeout = absl::Milliseconds(10);
  options.identity.build = "x";
  bool posted = false;
  auto link = WorkerLink::Start(options, [&](Event) { return posted = true; });
  ASSERT_TRUE(link.ok());
  // A first message that is no hello is refused at once.
  CoordinatorLinkOptions dial;
  dial.coordinator = (*link)->address();
  auto worker = CoordinatorLink::Dial(dial, proto::Hello());
  EXPECT_EQ((*worker)->Receive(Soon()).status().code(), absl::StatusCode::kFailedPrecondition);
  (*link)->Tick(absl::Now() + absl::Hours(1));
  EXPECT_FALSE(posted);
}

}  // namespace
}  // namespace shoal
