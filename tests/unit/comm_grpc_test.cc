// SPDX-License-Identifier: Apache-2.0
// Shows that transport grpc takes nothing from the wire on trust: a rank is connected to a peer
// that this test plays by hand, which then sends what no honest peer would; strangers call;
// certificates are missing, foreign or mixed up; ports are taken.
#include <array>
#include <memory>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "comm/fabric.h"
#include "comm/grpc/byte_buffer_text.h"
#include "comm/grpc/row_sender.h"
#include "comm/grpc/row_service.h"
#include "engine/parallel/blamed_peers.h"
#include "gmock/gmock.h"
#include "grpc/support/log.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "tests/unit/comm_ranks.h"
#include "tests/unit/tls_certificates.h"

namespace shoal::comm_test {
namespace {

using ::testing::AnyOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr size_t kMax = 1000;

absl::Time In(absl::Duration duration) { return absl::Now() + duration; }

std::string AddressOf(const std::string& endpoint) {
  return endpoint.substr(std::string("grpc:").size());
}

// A client's stream, driven call by call.
class RawStream {
 public:
  explicit RawStream(const std::string& address, const std::string& method = kRowMethod)
      : stub_(grpc::CreateChannel(address, grpc::InsecureChannelCredentials())),
        call_(stub_.PrepareCall(&context_, method, &queue_)) {
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    call_->StartCall(nullptr);
    Next();
  }
  ~RawStream() {
    if (!finished_) {
      context_.TryCancel();
      Finish();
    }
    queue_.Shutdown();
    void* tag;
    bool ok;
    while (queue_.Next(&tag, &ok)) {
    }
  }
  bool Write(absl::string_view bytes) {
    call_->Write(ToByteBuffer(bytes), nullptr);
    return Next();
  }
  // Empty when the stream has ended.
  std::string Read() {
    grpc::ByteBuffer buffer;
    call_->Read(&buffer, nullptr);
    return Next() ? ToText(buffer, 100000) : "";
  }
  grpc::Status Finish() {
    grpc::Status status;
    call_->Finish(&status, nullptr);
    Next();
    finished_ = true;
    return status;
  }

 private:
  bool Next() {
    void* tag;
    bool ok = false;
    queue_.Next(&tag, &ok);
    return ok;
  }
  grpc::CompletionQueue queue_;
  grpc::ClientContext context_;
  grpc::GenericStub stub_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> call_;
  bool finished_ = false;
};

std::string Message(const ExchangeTag& tag, int source, uint64_t length, absl::string_view rows) {
  MessageHeader header;
  header.tag = tag;
  header.source = RankId(source);
  header.length = length;
  std::array<std::byte, kMessageHeaderBytes> bytes;
  WriteMessageHeader(header, absl::MakeSpan(bytes));
  return absl::StrCat(absl::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()),
                      rows);
}

// Rank 0 is a real fabric; rank 1 is a server that welcomes rank 0, and a stream on which the test
// writes what it likes.
class CommGrpc : public ::testing::Test {
 protected:
  void SetUp() override {
    fabric_ = Fabric::Create(Options("grpc", kMax)).value();
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterCallbackGenericService(&service_);
    server_ = builder.BuildAndStart();
    endpoints_ = {fabric_->endpoint(), absl::StrCat("grpc:127.0.0.1:", port)};
  }
  void TearDown() override {
    stream_.reset();
    if (link_ != nullptr) link_->Close();
    fabric_.reset();
    server_->Shutdown();
  }

  Hello PeersHello(int64_t epoch) {
    return {.cluster = "contract-test",
            .epoch = Epoch(epoch),
            .rank = RankId(1),
            .world = 2,
            .max_message_bytes = kMax,
            .endpoint = endpoints_[1]};
  }
  void WelcomeRank0(int64_t epoch) {
    for (const absl::Time deadline = In(absl::Seconds(20)); absl::Now() < deadline;) {
      const std::optional<Hello> hello = service_.Waiting(RankId(0));
      if (hello.has_value() && hello->epoch == Epoch(epoch)) break;
      absl::SleepFor(absl::Milliseconds(1));
    }
    link_ = std::make_shared<IncomingLink>(RankId(0), Lane::Allocate(kMax).value());
    ASSERT_TRUE(service_.Welcome(RankId(0), link_, PeersHello(epoch)));
  }
  void Connect(int64_t epoch) {
    absl::StatusOr<Exchange*> exchange;
    std::thread connecting([&] {
      exchange = fabric_->Connect(Epoch(epoch), RankId(0), endpoints_, In(absl::Seconds(20)));
    });
    stream_ = std::make_unique<RawStream>(AddressOf(endpoints_[0]));
    EXPECT_TRUE(stream_->Write(EncodeHello(PeersHello(epoch))));
    WelcomeRank0(epoch);
    const absl::StatusOr<HelloReply> reply = ParseHelloReply(stream_->Read());
    EXPECT_TRUE(reply.ok() && reply->verdict.ok());
    connecting.join();
    ASSERT_TRUE(exchange.ok()) << exchange.status();
    exchange_ = *exchange;
  }
  // What rank 0 receives from rank 1.
  absl::StatusOr<std::string> Receive(const ExchangeTag& tag,
                                      absl::Duration patience = absl::Seconds(20)) {
    for (int peer : {0, 1}) exchange_->SendBuffer(tag, RankId(peer), In(patience));
    absl::Status status = exchange_->Post(tag, std::vector<size_t>(2, 0));
    if (!status.ok()) return status;
    std::vector<absl::Span<const std::byte>> received(2);
    status = exchange_->Wait(tag, In(patience), absl::MakeSpan(received));
    if (!status.ok()) return status;
    std::string rows(reinterpret_cast<const char*>(received[1].data()), received[1].size());
    exchange_->Release(tag);
    return rows;
  }
  void ExpectCorrupt(const std::string& message, const std::string& why) {
    Connect(++epoch_);
    stream_->Write(message);
    const absl::Status status = Receive(Tag(epoch_, 0, 0)).status();
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
    EXPECT_THAT(status.message(),
                AllOf(HasSubstr("rank 1 sent a corrupt message"), HasSubstr(why)));
    EXPECT_THAT(BlamedPeers(status), ElementsAre(RankId(1)));
    EXPECT_EQ(stream_->Finish().error_code(), grpc::StatusCode::DATA_LOSS);
  }

  int64_t epoch_ = 0;
  Doorbell changed_;
  RowService service_{changed_};
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<Fabric> fabric_;
  std::vector<std::string> endpoints_;
  std::unique_ptr<RawStream> stream_;
  std::shared_ptr<IncomingLink> link_;
  Exchange* exchange_ = nullptr;
};

TEST_F(CommGrpc, AnHonestPeerIsHeard) {
  Connect(1);
  ASSERT_TRUE(stream_->Write(Message(Tag(1, 0, 0), 1, 5, "hello")));
  EXPECT_EQ(Receive(Tag(1, 0, 0)).value(), "hello");
}

TEST_F(CommGrpc, CorruptAndForgedMessagesAreRefused) {
  ExpectCorrupt(std::string(64, 'x'), "magic");
  ExpectCorrupt("short", "want 64 bytes, found 5");
  ExpectCorrupt("", "want 64 bytes, found 0");
  ExpectCorrupt(Message(Tag(4, 0, 0), 0, 2, "ab"), "source 0");
  ExpectCorrupt(Message(Tag(5, 0, 0), 1, 3, "ab"), "length 3, followed by 2 bytes");
  ExpectCorrupt(Message(Tag(6, 0, 0), 1, 1, "ab"), "length 1, followed by 2 bytes");
  ExpectCorrupt(Message(Tag(7, 0, 0), 1, uint64_t{1} << 62, ""), "exceeds the largest message");
  // Each time rank 0 could be connected again: the last time by an honest peer.
  Connect(8);
  ASSERT_TRUE(stream_->Write(Message(Tag(8, 0, 0), 1, 2, "ok")));
  EXPECT_EQ(Receive(Tag(8, 0, 0)).value(), "ok");
}

TEST_F(CommGrpc, AMessageLargerThanAnyMayBeEndsTheStream) {
  Connect(1);
  stream_->Write(Message(Tag(1, 0, 0), 1, kMax, std::string(20000, 'x')));
  const absl::Status status = Receive(Tag(1, 0, 0)).status();
  EXPECT_TRUE(absl::IsUnavailable(status) || absl::IsDataLoss(status)) << status;
}

TEST_F(CommGrpc, AMessageOfAPastEpochIsDropped) {
  Connect(1);
  ASSERT_TRUE(stream_->Write(Message(Tag(1, 0, 0), 1, 3, "old")));
  Connect(2);
  ASSERT_TRUE(stream_->Write(Message(Tag(1, 0, 0), 1, 3, "old")));
  ASSERT_TRUE(stream_->Write(Message(Tag(1, 1, 0), 1, 3, "old")));
  ASSERT_TRUE(stream_->Write(Message(Tag(1, 2, 0), 1, 3, "old")));
  ASSERT_TRUE(stream_->Write(Message(Tag(2, 0, 0), 1, 3, "new")));
  EXPECT_EQ(Receive(Tag(2, 0, 0)).value(), "new");
}

TEST_F(CommGrpc, MessagesBeyondTheSlotsWaitTheirTurn) {
  Connect(1);
  for (int step = 0; step < 6; ++step) {
    ASSERT_TRUE(stream_->Write(Message(Tag(1, step, 0), 1, 1, std::string(1, 'a' + step))));
  }
  for (int step = 0; step < 6; ++step) {
    EXPECT_EQ(Receive(Tag(1, step, 0)).value(), std::string(1, 'a' + step));
  }
}

TEST_F(CommGrpc, AStreamThatEndsIsADeath) {
  Connect(1);
  ASSERT_TRUE(stream_->Write(Message(Tag(1, 0, 0), 1, 2, "ok")));
  EXPECT_EQ(Receive(Tag(1, 0, 0)).value(), "ok");
  stream_.reset();
  const absl::Time start = absl::Now();
  const absl::Status status = Receive(Tag(1, 1, 0)).status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("rank 1 is gone"));
  EXPECT_THAT(BlamedPeers(status), ElementsAre(RankId(1)));
  EXPECT_LT(absl::Now() - start, absl::Seconds(2));
}

TEST_F(CommGrpc, StrangersAreTurnedAway) {
  const std::string address = AddressOf(endpoints_[0]);
  RawStream other_method(address, "/shoal.exchange.Rows/Other");
  EXPECT_EQ(other_method.Finish().error_code(), grpc::StatusCode::UNIMPLEMENTED);
  RawStream garbage(address);
  garbage.Write("\xff\xff\xff\xff");
  EXPECT_EQ(garbage.Read(), "");
  EXPECT_EQ(garbage.Finish().error_code(), grpc::StatusCode::DATA_LOSS);

  Connect(5);
  const auto refusal = [&](const Hello& hello) {
    RawStream stream(address);
    stream.Write(EncodeHello(hello));
    const absl::StatusOr<HelloReply> reply = ParseHelloReply(stream.Read());
    return reply.ok() ? reply->verdict : reply.status();
  };
  EXPECT_TRUE(absl::IsAborted(refusal(PeersHello(4))));
  Hello nobody = PeersHello(6);
  nobody.rank = RankId(-3);
  EXPECT_TRUE(absl::IsFailedPrecondition(refusal(nobody)));
  nobody.rank = RankId(1 << 30);
  EXPECT_TRUE(absl::IsFailedPrecondition(refusal(nobody)));
}

// An impostor speaks for rank 1 from another endpoint while rank 0 connects: it is refused, and the
// real one is connected all the same.
TEST_F(CommGrpc, AnImpostorIsRefusedAndForgotten) {
  RawStream impostor(AddressOf(endpoints_[0]));
  Hello lie = PeersHello(1);
  lie.endpoint = "grpc:127.0.0.1:1";
  ASSERT_TRUE(impostor.Write(EncodeHello(lie)));
  absl::StatusOr<Exchange*> exchange;
  std::thread connecting(
      [&] { exchange = fabric_->Connect(Epoch(1), RankId(0), endpoints_, In(absl::Seconds(20))); });
  const absl::StatusOr<HelloReply> reply = ParseHelloReply(impostor.Read());
  ASSERT_TRUE(reply.ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(reply->verdict)) << reply->verdict;
  stream_ = std::make_unique<RawStream>(AddressOf(endpoints_[0]));
  EXPECT_TRUE(stream_->Write(EncodeHello(PeersHello(1))));
  WelcomeRank0(1);
  connecting.join();
  EXPECT_TRUE(exchange.ok()) << exchange.status();
}

TEST(CommGrpcListen, ATakenOrImpossibleAddressIsNamed) {
  FabricOptions options = Options("grpc", kMax);
  std::unique_ptr<Fabric> first = Fabric::Create(options).value();
  EXPECT_THAT(first->endpoint(), ::testing::MatchesRegex("grpc:127.0.0.1:[1-9][0-9]*"));
  options.listen = AddressOf(first->endpoint());
  const absl::Status taken = Fabric::Create(options).status();
  EXPECT_TRUE(absl::IsUnavailable(taken)) << taken;
  EXPECT_THAT(taken.message(), HasSubstr(options.listen));
  options.listen = "nowhere";
  EXPECT_TRUE(absl::IsInvalidArgument(Fabric::Create(options).status()));
  options.listen = "no.such.host.invalid:1";
  EXPECT_TRUE(absl::IsUnavailable(Fabric::Create(options).status()));
  options.listen = "0.0.0.0:0";
  EXPECT_THAT(Fabric::Create(options).value()->endpoint(), ::testing::Not(HasSubstr("0.0.0.0")));
  options.advertise = "worker-7.example";
  EXPECT_THAT(Fabric::Create(options).value()->endpoint(), HasSubstr("grpc:worker-7.example:"));
}

TEST(CommGrpcListen, APeerThatIsNotThereIsNamed) {
  std::unique_ptr<Fabric> fabric = Fabric::Create(Options("grpc", kMax)).value();
  const std::vector<std::string> endpoints = {fabric->endpoint(), "grpc:127.0.0.1:1"};
  const absl::Status status =
      fabric->Connect(Epoch(1), RankId(0), endpoints, In(absl::Milliseconds(300))).status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(status.message(), AllOf(HasSubstr("rank 1"), HasSubstr("127.0.0.1:1")));
  EXPECT_THAT(BlamedPeers(status), ElementsAre(RankId(1)));
  const absl::Status none =
      fabric->Connect(Epoch(1), RankId(0), {fabric->endpoint(), "shm:x:y"}, In(absl::Seconds(1)))
          .status();
  EXPECT_TRUE(absl::IsInvalidArgument(none)) << none;
  EXPECT_THAT(BlamedPeers(none), ElementsAre(RankId(1)));
}

class CommGrpcTls : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    gpr_set_log_function([](gpr_log_func_args*) {});  // it complains of every bad handshake
    certificates_ = std::make_unique<TlsCertificates>();
  }
  static void TearDownTestSuite() { certificates_.reset(); }
  static TlsFiles Files(const std::string& owner, const std::string& ca) {
    return certificates_->Files<TlsFiles>(owner, ca);
  }
  // What both ranks' Connect say.
  static std::vector<absl::Status> Connect(const TlsFiles& rank0, const TlsFiles& rank1) {
    std::vector<absl::Status> statuses(2);
    RunRanks(
        2,
        [&](int rank) {
          FabricOptions options = Options("grpc", kMax);
          options.tls = rank == 0 ? rank0 : rank1;
          return options;
        },
        [&](Rank& me) {
          absl::StatusOr<Exchange*> exchange =
              me.fabric->Connect(Epoch(1), RankId(me.rank), me.endpoints, In(absl::Seconds(1)));
          statuses[me.rank] = exchange.status();
          if (exchange.ok()) {
            for (int step = 0; step < 20; ++step) {
              EXPECT_EQ(SendAll(**exchange, Tag(1, step, 0), 1, In(absl::Seconds(10))),
                        absl::OkStatus());
              EXPECT_EQ(ReceiveAll(**exchange, Tag(1, step, 0), 1, In(absl::Seconds(10))),
                        absl::OkStatus());
              (*exchange)->Release(Tag(1, step, 0));
            }
          }
          me.meet();
        });
    return statuses;
  }

  static inline std::unique_ptr<TlsCertificates> certificates_;
};

TEST_F(CommGrpcTls, RanksOfOneAuthorityTalk) {
  for (const absl::Status& status : Connect(Files("ours", "ours"), Files("ours", "ours"))) {
    EXPECT_EQ(status, absl::OkStatus());
  }
}

TEST_F(CommGrpcTls, APlainRankIsRefused) {
  for (const absl::Status& status : Connect(Files("ours", "ours"), TlsFiles())) {
    EXPECT_TRUE(absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status)) << status;
  }
}

TEST_F(CommGrpcTls, ARankOfAnotherAuthorityIsRefused) {
  // It trusts our authority, but its own certificate is not from there.
  for (const absl::Status& status : Connect(Files("ours", "ours"), Files("theirs", "ours"))) {
    EXPECT_TRUE(absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status)) << status;
  }
}

TEST_F(CommGrpcTls, FilesThatAreMissingOrMixedUpAreNamed) {
  FabricOptions options = Options("grpc", kMax);
  options.tls = Files("ours", "ours");
  options.tls.key = certificates_->folder() + "/none.key";
  absl::Status status = Fabric::Create(options).status();
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("none.key"));
  options.tls.key = "";
  EXPECT_TRUE(absl::IsInvalidArgument(Fabric::Create(options).status()));
  options.tls.key = certificates_->folder() + "/theirs.key";
  status = Fabric::Create(options).status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(status.message(), HasSubstr("TLS"));
}

}  // namespace
}  // namespace shoal::comm_test
