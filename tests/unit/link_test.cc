// SPDX-License-Identifier: Apache-2.0
// Shows that the two ends of a worker's stream understand each other: plans and results arrive as
// they were sent, a broken connection is an event at once, and a peer that talks nonsense loses its
// connection and nothing else.
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "coordinator/link/translate.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/link_fixture.h"
#include "tests/unit/tls_certificates.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;

TEST_F(LinkTest, APlanArrivesAsItWasSent) {
  Start();
  auto worker = Dial(GoodHello());
  SendPlan command;
  command.worker = Join(*worker);
  command.plan.epoch = Epoch(5);
  command.plan.step = StepId(77);
  command.plan.timeout = absl::Milliseconds(1500);
  NewSequence entering;
  entering.id = SequenceId(9);
  entering.tokens = {1, 2, 3};
  entering.prompt_tokens = 2;
  entering.sampling.temperature = 0.5f;
  entering.sampling.top_p = 0.9f;
  entering.sampling.top_k = 40;
  entering.sampling.min_p = 0.05f;
  entering.sampling.presence_penalty = 0.1f;
  entering.sampling.frequency_penalty = 0.2f;
  entering.sampling.repetition_penalty = 1.3f;
  entering.sampling.seed = 0xfedcba9876543210;
  entering.sampling.min_tokens = 4;
  entering.sampling.top_logprobs = 5;
  entering.sampling.prompt_logprobs = true;
  entering.sampling.end_token_ids = {0, 7};
  entering.sampling.logit_bias = {{8, -100.0f}};
  command.plan.plan.new_sequences.push_back(entering);
  SequenceWork work;
  work.id = SequenceId(9);
  work.start = 1;
  work.count = 2;
  work.sample = true;
  work.prompt_logprobs = true;
  work.new_blocks = {BlockId(3), BlockId(1)};
  command.plan.plan.work.push_back(work);
  command.plan.plan.stop_decode = {SequenceId(4)};
  command.plan.plan.forget = {SequenceId(5), SequenceId(6)};
  command.plan.plan.rewind = {{SequenceId(2), 12, 11}};
  link_->Execute(command);

  auto received = worker->Receive(Soon());
  ASSERT_TRUE(received.ok() && *received != nullptr) << received.status();
  ASSERT_TRUE((*received)->has_step_plan());
  EXPECT_EQ(
      (*received)->step_plan().ShortDebugString(),
      "epoch: 5 step: 77 timeout_us: 1500000 new_sequences { id: 9 tokens: 1 tokens: 2 tokens: 3 "
      "prompt_tokens: 2 sampling { temperature: 0.5 top_p: 0.9 top_k: 40 min_p: 0.05 "
      "presence_penalty: 0.1 "
      "frequency_penalty: 0.2 repetition_penalty: 1.3 seed: 18364758544493064720 min_tokens: 4 "
      "top_logprobs: 5 "
      "prompt_logprobs: true end_token_ids: 0 end_token_ids: 7 logit_bias_tokens: 8 "
      "logit_bias_values: -100 } } "
      "work { id: 9 start: 1 count: 2 sample: true prompt_logprobs: true new_blocks: 3 new_blocks: "
      "1 } "
      "stop_decode: 4 forget: 5 forget: 6 rewind { id: 2 tokens: 12 rows: 11 }");
}

TEST_F(LinkTest, AnAssignmentNamesEveryEndpointAndInterrupts) {
  Start();
  proto::Hello hello = GoodHello();
  hello.set_endpoint("shm:here:socket-0");
  std::optional<Epoch> interrupted;
  auto worker = Dial(hello, [&](std::optional<Epoch> epoch) { interrupted = epoch; });
  AssignRank command;
  command.worker = Join(*worker);
  hello.set_endpoint("shm:here:socket-1");
  hello.set_host("there");
  auto other = Dial(hello);
  command.members =
      std::make_shared<const UnitMembers>(UnitMembers{command.worker, Join(*other), std::nullopt});
  command.epoch = Epoch(2);
  command.rank = RankId(0);
  auto placement = ExpertPlacement::Create(3, {{}, {{RankId(0), RankId(1)}, {RankId(1)}}});
  ASSERT_TRUE(placement.ok());
  command.placement = std::make_shared<const ExpertPlacement>(*std::move(placement));
  link_->Execute(command);
  auto received = worker->Receive(Soon());
  ASSERT_TRUE(received.ok() && *received != nullptr);
  EXPECT_EQ(interrupted, Epoch(2));  // before the message could be seen
  EXPECT_EQ((*received)->assign_rank().ShortDebugString(),
            "epoch: 2 endpoints: \"shm:here:socket-0\" endpoints: \"shm:here:socket-1\" "
            "endpoints: \"\" "
            "placement { } placement { replicas: 2 replicas: 1 ranks: 0 ranks: 1 ranks: 1 } "
            "host_of_rank: 0 host_of_rank: 1 host_of_rank: -1");

  // The same placement is not told twice.
  command.epoch = Epoch(3);
  link_->Execute(command);
  received = worker->Receive(Soon());
  ASSERT_TRUE(received.ok() && *received != nullptr);
  EXPECT_EQ((*received)->assign_rank().epoch(), 3);
  EXPECT_EQ((*received)->assign_rank().placement_size(), 0);
}

// The core will hear of the loss and raise the epoch again; nobody shall try to connect meanwhile.
TEST_F(LinkTest, AnAssignmentWithAMemberThatIsGoneIsNotSent) {
  Start();
  auto worker = Dial(GoodHello());
  AssignRank command;
  command.worker = Join(*worker);
  auto other = Dial(GoodHello());
  command.members = std::make_shared<const UnitMembers>(UnitMembers{command.worker, Join(*other)});
  other.reset();
  ASSERT_TRUE(std::holds_alternative<WorkerLost>(events_.Next()));
  command.epoch = Epoch(2);
  link_->Execute(command);
  command.epoch = Epoch(3);
  command.members = std::make_shared<const UnitMembers>(UnitMembers{command.worker, std::nullopt});
  link_->Execute(command);
  auto received = worker->Receive(Soon());
  ASSERT_TRUE(received.ok() && *received != nullptr);
  EXPECT_EQ((*received)->assign_rank().epoch(), 3);
}

TEST_F(LinkTest, LoadedMeansTheLastThatWasToBeLoaded) {
  Start();
  auto worker = Dial(GoodHello());
  LoadExperts command;
  command.worker = Join(*worker);
  command.rank = RankId(1);
  auto placement = ExpertPlacement::Create(2, {{{RankId(0), RankId(1)}, {RankId(1)}}});
  ASSERT_TRUE(placement.ok());
  command.placement = std::make_shared<const ExpertPlacement>(*std::move(placement));
  link_->Execute(command);
  link_->Execute(command);
  auto received = worker->Receive(Soon());
  ASSERT_TRUE(received.ok() && *received != nullptr);
  EXPECT_EQ((*received)->load_experts().ShortDebugString(),
            "serial: 1 rank: 1 world_size: 2 "
            "placement { replicas: 2 replicas: 1 ranks: 0 ranks: 1 ranks: 1 }");
  const auto say_loaded = [&](int64_t serial) {
    auto message = std::make_unique<proto::WorkerMessage>();
    message->mutable_loaded()->set_serial(serial);
    worker->Send(std::move(message));
  };
  say_loaded(1);
  EXPECT_TRUE(std::holds_alternative<Tick>(events_.Next(absl::Milliseconds(100))));
  say_loaded(2);
  const Event event = events_.Next();
  ASSERT_TRUE(std::holds_alternative<WorkerLoaded>(event));
  EXPECT_EQ(std::get<WorkerLoaded>(event).worker, command.worker);
}

TEST_F(LinkTest, AResultBecomesStepDone) {
  Start();
  auto worker = Dial(GoodHello());
  const WorkerId id = Join(*worker);
  auto message = worker->NewStepDone();
  proto::StepDone& sent = *message->mutable_step_done();
  sent.set_epoch(5);
  sent.set_step(77);
  sent.mutable_status()->set_code(4);
  sent.mutable_status()->set_message("slow");
  sent.add_blamed(2);
  sent.add_blamed(-7);
  sent.set_busy_us(1000);
  sent.set_waiting_us(20);
  sent.add_waiting_dispatch_us(0);
  sent.add_waiting_dispatch_us(15);
  sent.add_waiting_combine_us(5);
  sent.add_waiting_combine_us(0);
  proto::SampledToken& token = *sent.add_tokens();
  token.set_sequence(9);
  token.set_position(3);
  token.set_token(42);
  token.mutable_logprobs()->set_chosen(-0.5f);
  token.mutable_logprobs()->add_top_tokens(42);
  token.mutable_logprobs()->add_top_logprobs(-0.5f);
  proto::PromptLogprobs& prompt = *sent.add_prompt_logprobs();
  prompt.set_sequence(9);
  prompt.set_position(1);
  prompt.add_logprobs()->set_chosen(-2);
  worker->Send(std::move(message));

  const Event event = events_.Next();
  const auto* done = std::get_if<StepDone>(&event);
  ASSERT_NE(done, nullptr);
  EXPECT_EQ(done->worker, id);
  EXPECT_EQ(done->epoch, Epoch(5));
  EXPECT_EQ(done->step, StepId(77));
  EXPECT_EQ(done->status, absl::DeadlineExceededError("slow"));
  EXPECT_EQ(done->blamed, (std::vector<RankId>{RankId(2), RankId(-7)}));  // the core checks them
  EXPECT_EQ(done->busy, absl::Milliseconds(1));
  EXPECT_EQ(done->waiting, absl::Microseconds(20));
  EXPECT_EQ(done->waiting_dispatch,
            (std::vector<absl::Duration>{absl::ZeroDuration(), absl::Microseconds(15)}));
  EXPECT_EQ(done->waiting_combine,
            (std::vector<absl::Duration>{absl::Microseconds(5), absl::ZeroDuration()}));
  ASSERT_EQ(done->tokens.size(), 1u);
  EXPECT_EQ(done->tokens[0].sequence, SequenceId(9));
  EXPECT_EQ(done->tokens[0].position, 3);
  EXPECT_EQ(done->tokens[0].token, 42);
  EXPECT_EQ(done->tokens[0].logprobs, (TokenLogprobs{-0.5f, {{42, -0.5f}}}));
  ASSERT_EQ(done->prompt_logprobs.size(), 1u);
  EXPECT_EQ(done->prompt_logprobs[0].logprobs, (std::vector<TokenLogprobs>{{-2.0f, {}}}));
}

// However many ranks a message names, no more than a world has are looked at.
TEST_F(LinkTest, NobodyBlamesMoreThanAWorld) {
  proto::StepDone done;
  proto::ConnectFailed failed;
  for (int32_t rank = 0; rank < 100000; ++rank) {
    done.add_blamed(rank);
    failed.add_ranks(rank);
  }
  EXPECT_EQ(FromProto(done, WorkerId(1)).value().blamed.size(), 4096u);
  EXPECT_EQ(FromProto(failed, WorkerId(1)).unreached.size(), 4096u);
}

TEST_F(LinkTest, ManyMessagesArriveInOrder) {
  Start();
  auto worker = Dial(GoodHello());
  SendPlan command;
  command.worker = Join(*worker);
  for (int i = 0; i < 500; ++i) {
    command.plan.step = StepId(i);
    link_->Execute(command);
  }
  for (int i = 0; i < 500; ++i) {
    auto received = worker->Receive(Soon());
    ASSERT_TRUE(received.ok() && *received != nullptr);
    ASSERT_EQ((*received)->step_plan().step(), i);
    auto message = worker->NewStepDone();
    message->mutable_step_done()->set_step(i);
    worker->Send(std::move(message));
  }
  for (int i = 0; i < 500; ++i) {
    const Event event = events_.Next();
    ASSERT_TRUE(std::holds_alternative<StepDone>(event));
    ASSERT_EQ(std::get<StepDone>(event).step, StepId(i));
  }
}

TEST_F(LinkTest, ABrokenConnectionIsAnEventAtOnce) {
  Start();
  auto worker = Dial(GoodHello());
  const WorkerId id = Join(*worker);
  const absl::Time begin = absl::Now();
  worker.reset();
  const Event event = events_.Next();
  ASSERT_TRUE(std::holds_alternative<WorkerLost>(event));
  EXPECT_EQ(std::get<WorkerLost>(event).worker, id);
  EXPECT_LT(absl::Now() - begin, absl::Seconds(1));
}

TEST_F(LinkTest, HeartbeatsComeByThemselves) {
  Start();
  auto worker = Dial(GoodHello());
  Join(*worker);
  const int before = events_.heartbeats();
  absl::SleepFor(absl::Milliseconds(600));
  EXPECT_GE(events_.heartbeats() - before, 4);  // 12 on an idle machine
}

// A heartbeat says that it has come, and nothing else: when is for the coordinator's own clock to
// say. One that brings a time of its own is a heartbeat like any other.
TEST_F(LinkTest, NoWorkersClockIsBelieved) {
  Start();
  auto worker = Dial(GoodHello());
  Join(*worker);
  for (const uint64_t clock : {uint64_t{0}, ~uint64_t{0}, uint64_t{1} << 63}) {
    auto beat = std::make_unique<proto::WorkerMessage>();
    proto::Heartbeat& heartbeat = *beat->mutable_heartbeat();
    heartbeat.GetReflection()->MutableUnknownFields(&heartbeat)->AddVarint(1, clock);
    worker->Send(std::move(beat));
  }
  // Times that a worker measured are shown to people, never acted upon.
  auto message = worker->NewStepDone();
  message->mutable_step_done()->set_busy_us(std::numeric_limits<int64_t>::max());
  message->mutable_step_done()->add_waiting_dispatch_us(std::numeric_limits<int64_t>::max());
  worker->Send(std::move(message));
  EXPECT_TRUE(std::holds_alternative<StepDone>(events_.Next()));
  EXPECT_GE(events_.heartbeats(), 3);
  // Those that cannot be end the connection, with a word.
  message = worker->NewStepDone();
  message->mutable_step_done()->set_busy_us(std::numeric_limits<int64_t>::min());
  worker->Send(std::move(message));
  const absl::Status why = worker->Receive(Soon()).status();
  EXPECT_EQ(why.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(why.message()), HasSubstr("negative"));
  EXPECT_TRUE(std::holds_alternative<WorkerLost>(events_.Next()));
}

TEST_F(LinkTest, AnEvictedWorkerLearnsWhyAndIsNoEvent) {
  WorkerIdentity evicted;
  absl::Notification told;
  Start([&](WorkerLinkOptions& options) {
    options.on_evicted = [&](const WorkerIdentity& identity, const absl::Status&) {
      evicted = identity;
      told.Notify();
    };
  });
  bool interrupted = false;
  proto::Hello hello = GoodHello();
  hello.set_supervised_as("a secret");
  auto worker = Dial(hello, [&](std::optional<Epoch>) { interrupted = true; });
  const WorkerId id = Join(*worker);
  link_->Execute(EvictWorker{id, absl::UnavailableError("its heartbeat stopped")});
  told.WaitForNotification();
  EXPECT_EQ(evicted.pid, 4711);
  EXPECT_EQ(evicted.supervised_as, "a secret");
  const absl::Status status = worker->Receive(Soon()).status();
  EXPECT_EQ(status, absl::UnavailableError("its heartbeat stopped"));
  EXPECT_TRUE(interrupted);
  EXPECT_TRUE(std::holds_alternative<Tick>(events_.Next(absl::Milliseconds(50))));
}

TEST_F(LinkTest, AGoodbyeWithAnErrorIsReportedAndTheWorkerIsLost) {
  absl::Status failure;
  absl::Notification told;
  Start([&](WorkerLinkOptions& options) {
    options.on_failure = [&](const WorkerIdentity&, const absl::Status& status) {
      failure = status;
      told.Notify();
    };
  });
  auto worker = Dial(GoodHello());
  Join(*worker);
  auto message = worker->NewStepDone();
  message->mutable_goodbye()->mutable_status()->set_code(
      static_cast<int>(absl::StatusCode::kDataLoss));
  message->mutable_goodbye()->mutable_status()->set_message("a torn shard");
  worker->Send(std::move(message));
  told.WaitForNotification();
  EXPECT_EQ(failure, absl::DataLossError("a torn shard"));
  const Event event = events_.Next();
  ASSERT_TRUE(std::holds_alternative<WorkerLost>(event));
  EXPECT_EQ(std::get<WorkerLost>(event).why, "a torn shard");
}

TEST_F(LinkTest, NonsenseEndsOneConnectionOnly) {
  Start();
  auto good = Dial(GoodHello());
  Join(*good);
  auto bad = Dial(GoodHello());
  const WorkerId id = Join(*bad);
  auto message = bad->NewStepDone();
  message->mutable_step_done()->add_tokens()->set_token(-1);
  bad->Send(std::move(message));
  EXPECT_EQ(bad->Receive(Soon()).status().code(), absl::StatusCode::kInvalidArgument);
  const Event lost = events_.Next();
  ASSERT_TRUE(std::holds_alternative<WorkerLost>(lost));
  EXPECT_EQ(std::get<WorkerLost>(lost).worker, id);
  auto result = good->NewStepDone();
  good->Send(std::move(result));
  EXPECT_TRUE(std::holds_alternative<StepDone>(events_.Next()));
}

TEST_F(LinkTest, ShutdownTellsTheWorkers) {
  Start();
  auto worker = Dial(GoodHello());
  Join(*worker);
  link_->Shutdown("over", absl::Now() + absl::Milliseconds(100));
  auto received = worker->Receive(Soon());
  ASSERT_TRUE(received.ok() && *received != nullptr) << received.status();
  EXPECT_EQ((*received)->shutdown().reason(), "over");
  EXPECT_FALSE(worker->Receive(Soon()).ok());
}

TEST_F(LinkTest, NobodyThereShowsAsUnavailable) {
  Start();
  auto worker = Dial(GoodHello());
  Join(*worker);
  const std::string address = link_->address();
  link_.reset();
  auto farewell = worker->Receive(Soon());  // may come through, but nobody waits for that
  if (farewell.ok()) {
    EXPECT_TRUE(*farewell != nullptr && (*farewell)->has_shutdown());
    EXPECT_FALSE(worker->Receive(Soon()).ok());
  }
  CoordinatorLinkOptions options;
  options.coordinator = address;
  auto alone = CoordinatorLink::Dial(options, GoodHello());
  ASSERT_TRUE(alone.ok());
  EXPECT_EQ((*alone)->Receive(Soon()).status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(LinkTest, WakeMakesReceiveReturn) {
  Start();
  auto worker = Dial(GoodHello());
  Join(*worker);
  worker->Wake();
  auto received = worker->Receive(absl::InfiniteFuture());
  ASSERT_TRUE(received.ok());
  EXPECT_EQ(*received, nullptr);
}

TEST(WorkerLink, AddressesThatCannotBeListenedOnAreNamed) {
  const int taken = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(bind(taken, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(listen(taken, 1), 0);
  socklen_t size = sizeof(address);
  getsockname(taken, reinterpret_cast<sockaddr*>(&address), &size);
  const std::string port = absl::StrCat(ntohs(address.sin_port));
  const auto start = [](const std::string& listen) {
    WorkerLinkOptions options;
    options.listen = listen;
    return WorkerLink::Start(options, [](Event) { return true; }).status();
  };
  EXPECT_EQ(start("127.0.0.1:" + port).code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(start("127.0.0.1:" + port).ToString(), HasSubstr(port));
  EXPECT_EQ(start("nonsense").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(start("192.0.2.1:0").code(), absl::StatusCode::kInvalidArgument);  // not ours
  close(taken);
}

TEST(WorkerLink, MissingCertificatesAreNamed) {
  WorkerLinkOptions options;
  options.tls = {"/no/cert.pem", "/no/key.pem", "/no/ca.pem"};
  const absl::Status status = WorkerLink::Start(options, [](Event) { return true; }).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(status.ToString(), HasSubstr("/no/"));
}

// What a worker says of a handshake that fails names the flag to look at.
TEST(WorkerLink, AHandshakeThatFailsIsExplained) {
  const TlsCertificates certificates;
  const auto reason = [](const LinkTls& coordinator, const TlsFiles& worker) {
    WorkerLinkOptions options;
    options.tls = coordinator;
    const auto link = WorkerLink::Start(options, [](Event) { return true; });
    EXPECT_TRUE(link.ok()) << link.status();
    CoordinatorLinkOptions dial;
    dial.coordinator = (*link)->address();
    dial.tls = worker;
    return CoordinatorLink::Dial(dial, GoodHello()).value()->Receive(Soon()).status().ToString();
  };
  const auto ours = certificates.Files<LinkTls>("ours", "ours");
  EXPECT_THAT(reason(ours, TlsFiles()), HasSubstr("does it want TLS?"));
  EXPECT_THAT(reason(LinkTls(), certificates.Files<TlsFiles>("ours", "ours")),
              HasSubstr("it speaks no TLS"));
  EXPECT_THAT(reason(ours, certificates.Files<TlsFiles>("ours", "theirs")),
              HasSubstr("its certificate is not signed by --cluster-ca"));
  EXPECT_THAT(reason(ours, certificates.Files<TlsFiles>("theirs", "ours")),
              HasSubstr("does its --cluster-ca sign this worker's certificate?"));
}

}  // namespace
}  // namespace shoal
