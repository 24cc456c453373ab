// SPDX-License-Identifier: Apache-2.0
// Shows that coordinator and workers, put together, say the same text whatever befalls them: a
// worker that leaves and another that takes its place, a coordinator that goes and a second one
// that the workers dial. All in one process, over loopback, with the bundled model, so that the
// thread sanitizer sees both ends.
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "coordinator/coordinator.h"
#include "engine/config/read_model_config.h"
#include "engine/parallel/blamed_peers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/worker.h"

namespace shoal {
namespace {

const char kModel[] = SHOAL_SOURCE_DIR "/deploy/models/shoal-tiny";
constexpr absl::Duration kPatience = absl::Seconds(120);  // sanitizers are slow

const ModelConfig& Config() {
  static const ModelConfig* config = new ModelConfig(*ReadModelConfig(kModel));
  return *config;
}

// The API's place: notes what becomes of each request.
class Listener final : public EmissionSink {
 public:
  struct Outcome {
    std::vector<int32_t> tokens;
    bool over = false;
    absl::Status error;
  };
  void OnEmit(Emit emit) override {
    absl::MutexLock lock(&mutex_);
    Outcome& outcome = outcomes_[emit.request];
    EXPECT_EQ(emit.first_index,
              static_cast<int32_t>(outcome.tokens.size()));  // none lost, none twice
    outcome.tokens.insert(outcome.tokens.end(), emit.tokens.begin(), emit.tokens.end());
    if (emit.finish == FinishReason::kNone) return;
    outcome.over = true;
    outcome.error = emit.error;
  }
  void OnReject(Reject reject) override {
    absl::MutexLock lock(&mutex_);
    outcomes_[reject.request].over = true;
    outcomes_[reject.request].error = reject.why;
  }
  Outcome WaitFor(RequestId id) {
    absl::MutexLock lock(&mutex_);
    const auto over = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return outcomes_[id].over; };
    EXPECT_TRUE(mutex_.AwaitWithTimeout(absl::Condition(&over), kPatience));
    return outcomes_[id];
  }
  void WaitForTokens(RequestId id, size_t count) {
    absl::MutexLock lock(&mutex_);
    const auto enough = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return outcomes_[id].over || outcomes_[id].tokens.size() >= count;
    };
    EXPECT_TRUE(mutex_.AwaitWithTimeout(absl::Condition(&enough), kPatience));
  }

 private:
  absl::Mutex mutex_;
  std::map<RequestId, Outcome> outcomes_ ABSL_GUARDED_BY(mutex_);
};

class ClusterTest : public ::testing::Test {
 protected:
  void StartCoordinator(int workers, const std::string& listen = "127.0.0.1:0") {
    CoordinatorOptions options;
    options.core.workers = workers;
    options.core.n_routed_experts = Config().RoutedExperts();
    options.core.max_context = Config().max_position_embeddings;
    options.core.max_batch_rows = 64;
    options.core.max_running_sequences = 8;
    options.core.block_tokens = 16;
    options.core.heartbeat_timeout = absl::Seconds(20);  // sanitizers are slow
    options.link.listen = listen;
    options.link.identity = {.build = "test",
                             .model = "tiny",
                             .numerics = "",
                             .transport = "",
                             .cluster = "",
                             .block_tokens = 16,
                             .max_batch_rows = 64,
                             .max_running = 8};
    auto coordinator = Coordinator::Create(options);
    ASSERT_TRUE(coordinator.ok()) << coordinator.status();
    coordinator_ = *std::move(coordinator);
    listener_ = std::make_unique<Listener>();
    coordinator_->Start(*listener_);
  }
  struct RunningWorker {
    std::unique_ptr<Worker> worker;
    std::thread thread;
    absl::Status status;
  };
  RunningWorker& StartWorker(const std::string& transport, const std::string& fingerprint = "tiny",
                             WorkerEnvironment& environment = WorkerEnvironment::System()) {
    WorkerOptions options;
    options.model_directory = kModel;
    options.model = Config();
    options.threads = 1;
    options.block_tokens = 16;
    options.cache_blocks = 256;
    options.max_batch_rows = 64;
    options.max_running = 8;
    options.link.coordinator = coordinator_->cluster_address();
    options.fabric.transport = transport;
    options.fabric.cluster = "worker_cluster_test";
    options.build = "test";
    options.fingerprint = fingerprint;
    options.host = "here";
    options.environment = &environment;
    workers_.push_back(std::make_unique<RunningWorker>());
    RunningWorker& running = *workers_.back();
    running.worker = std::make_unique<Worker>(options);
    running.thread = std::thread([&running] { running.status = running.worker->Run(); });
    return running;
  }
  static absl::Status End(RunningWorker& running) {
    running.worker->Stop();
    running.thread.join();
    return running.status;
  }
  void TearDown() override {
    for (auto& running : workers_) {
      if (!running->thread.joinable()) continue;
      EXPECT_TRUE(End(*running).ok());
    }
    if (coordinator_ != nullptr) coordinator_->Stop(absl::Now() + absl::Seconds(1));
  }
  RequestId Ask(int32_t max_tokens, int32_t first = 20) {
    Request request;
    request.id = next_request_ = next_request_.Next();
    for (int32_t i = 0; i < 40; ++i) request.prompt.push_back(first + i * 3 % 50);
    request.max_tokens = max_tokens;
    request.sampling.temperature = 0;
    EXPECT_TRUE(coordinator_->Post(RequestArrived{request}));
    return request.id;
  }
  bool WaitUntilServing() { return coordinator_->WaitUntilServing(absl::Now() + kPatience); }
  void WaitUntilNotServing() {
    const absl::Time deadline = absl::Now() + kPatience;
    while (coordinator_->Snapshot().serving && absl::Now() < deadline)
      absl::SleepFor(absl::Milliseconds(1));
    EXPECT_FALSE(coordinator_->Snapshot().serving);
  }

  std::unique_ptr<Listener> listener_;
  std::unique_ptr<Coordinator> coordinator_;
  std::unique_ptr<WorkerEnvironment> environment_;  // outlives the workers that it was given to
  std::vector<std::unique_ptr<RunningWorker>> workers_;
  RequestId next_request_;
};

// The machine, with fabrics whose first Connect fails once it has connected; `about_peer`: with an
// error about the other one of two ranks.
class FailingOnce final : public WorkerEnvironment {
 public:
  FailingOnce(absl::Status why, bool about_peer) : why_(std::move(why)), about_peer_(about_peer) {}
  absl::Time Now() override { return System().Now(); }
  void SleepUntil(absl::Time until, absl::Mutex& mutex, const bool& stop) override {
    System().SleepUntil(until, mutex, stop);
  }
  std::unique_ptr<BackgroundWork> RunInBackground(std::function<void()> work,
                                                  int niceness) override {
    return System().RunInBackground(std::move(work), niceness);
  }
  absl::StatusOr<std::unique_ptr<CoordinatorLink>> Dial(CoordinatorLinkOptions options,
                                                        const proto::Hello& hello) override {
    return System().Dial(std::move(options), hello);
  }
  absl::StatusOr<std::unique_ptr<Fabric>> CreateFabric(const FabricOptions& options) override {
    auto fabric = System().CreateFabric(options);
    if (!fabric.ok()) return fabric.status();
    return std::make_unique<FailingFabric>(*std::move(fabric),
                                           std::exchange(why_, absl::OkStatus()), about_peer_);
  }
  absl::StatusOr<std::unique_ptr<Model>> LoadModel(const std::string& directory,
                                                   const ModelConfig& config,
                                                   const ExpertPlacement& placement,
                                                   const ModelOptions& options, Kernels& kernels,
                                                   Exchange& exchange) override {
    return System().LoadModel(directory, config, placement, options, kernels, exchange);
  }

 private:
  class FailingFabric final : public Fabric {
   public:
    FailingFabric(std::unique_ptr<Fabric> inner, absl::Status why, bool about_peer)
        : inner_(std::move(inner)), why_(std::move(why)), about_peer_(about_peer) {}
    absl::string_view transport() const override { return inner_->transport(); }
    std::string endpoint() const override { return inner_->endpoint(); }
    absl::StatusOr<Exchange*> Connect(Epoch epoch, RankId rank,
                                      absl::Span<const std::string> endpoints,
                                      absl::Time deadline) override {
      auto exchange = inner_->Connect(epoch, rank, endpoints, deadline);
      if (why_.ok()) return exchange;
      absl::Status why = std::exchange(why_, absl::OkStatus());
      return about_peer_ ? BlamePeers(std::move(why), {RankId(1 - rank.value())}) : why;
    }
    void Abandon(Epoch next) override { inner_->Abandon(next); }

   private:
    const std::unique_ptr<Fabric> inner_;
    absl::Status why_;
    const bool about_peer_;
  };

  absl::Status why_;
  const bool about_peer_;
};

class ClusterTransportTest : public ClusterTest,
                             public ::testing::WithParamInterface<const char*> {};
INSTANTIATE_TEST_SUITE_P(Transports, ClusterTransportTest,
                         ::testing::Values("inprocess", "shm", "grpc"));

TEST_P(ClusterTransportTest, TextSurvivesTheDeathOfAWorkerAndOfTheCoordinator) {
  StartCoordinator(2);
  StartWorker(GetParam());
  RunningWorker& second = StartWorker(GetParam());
  ASSERT_TRUE(WaitUntilServing());
  const RequestId calm = Ask(10);
  const RequestId beside = Ask(10, 30);
  const Listener::Outcome expected = listener_->WaitFor(calm);
  ASSERT_TRUE(expected.error.ok()) << expected.error;
  EXPECT_EQ(expected.tokens.size(), 10u);
  const Listener::Outcome other = listener_->WaitFor(beside);

  const RequestId undisturbed = Ask(400, 10);
  const Listener::Outcome all = listener_->WaitFor(undisturbed);
  ASSERT_TRUE(all.error.ok()) << all.error;

  // A worker leaves in the middle of a request, and its experts with it: the request waits for
  // another one.
  const RequestId interrupted = Ask(400, 10);
  listener_->WaitForTokens(interrupted, 2);
  EXPECT_TRUE(End(second).ok());
  WaitUntilNotServing();
  StartWorker(GetParam());
  ASSERT_TRUE(WaitUntilServing());
  const Listener::Outcome ended = listener_->WaitFor(interrupted);
  EXPECT_TRUE(ended.error.ok()) << ended.error;
  EXPECT_EQ(ended.tokens, all.tokens);
  EXPECT_GT(coordinator_->Snapshot().epoch, Epoch(1));
  EXPECT_EQ(listener_->WaitFor(Ask(10)).tokens, expected.tokens);

  // The coordinator goes; the workers find the next one at the same address, and it goes on where
  // the first one was.
  const Epoch epoch = coordinator_->Snapshot().epoch;
  const std::string address = coordinator_->cluster_address();
  coordinator_->Stop(absl::Now() + absl::Milliseconds(200));
  StartCoordinator(2, address);
  ASSERT_TRUE(WaitUntilServing());
  EXPECT_EQ(coordinator_->Snapshot().epoch, epoch.Next());
  EXPECT_EQ(listener_->WaitFor(Ask(10)).tokens, expected.tokens);
  EXPECT_EQ(listener_->WaitFor(Ask(10, 30)).tokens, other.tokens);
}

TEST_F(ClusterTest, AStrangerIsSentAwayForGood) {
  StartCoordinator(1);
  RunningWorker& stranger = StartWorker("inprocess", "another model");
  stranger.thread.join();
  EXPECT_EQ(stranger.status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(stranger.worker->coordinator_knows());
  EXPECT_THAT(std::string(stranger.status.message()), ::testing::HasSubstr("'another model'"));
  StartWorker("inprocess");
  EXPECT_TRUE(WaitUntilServing());
}

// A peer's endpoint or its answer may have any code: only what is wrong with the worker itself
// makes it leave for good.
TEST_F(ClusterTest, AnErrorAboutAPeerIsNoReasonToLeave) {
  StartCoordinator(2);
  StartWorker("inprocess");
  environment_ = std::make_unique<FailingOnce>(absl::InvalidArgumentError("its endpoint is none"),
                                               /*about_peer=*/true);
  RunningWorker& healthy = StartWorker("inprocess", "tiny", *environment_);
  EXPECT_TRUE(WaitUntilServing());
  EXPECT_FALSE(healthy.worker->coordinator_knows());
  EXPECT_TRUE(End(healthy).ok());
}

TEST_F(ClusterTest, ACallThatCannotBeEndsTheWorker) {
  StartCoordinator(1);
  environment_ = std::make_unique<FailingOnce>(absl::InvalidArgumentError("a world of 0 ranks"),
                                               /*about_peer=*/false);
  RunningWorker& wrong = StartWorker("inprocess", "tiny", *environment_);
  wrong.thread.join();
  EXPECT_EQ(wrong.status, absl::FailedPreconditionError("a world of 0 ranks"));
}

TEST_F(ClusterTest, AStandbyTakesThePlaceOfTheFirstThatLeaves) {
  StartCoordinator(2);
  RunningWorker& first = StartWorker("inprocess");
  StartWorker("inprocess");
  ASSERT_TRUE(WaitUntilServing());
  const Listener::Outcome expected = listener_->WaitFor(Ask(5));
  StartWorker("inprocess");  // one more than ranks
  absl::SleepFor(absl::Milliseconds(200));
  EXPECT_EQ(coordinator_->Snapshot().epoch, Epoch(1));
  EXPECT_TRUE(End(first).ok());
  const absl::Time deadline = absl::Now() + kPatience;
  while (!(coordinator_->Snapshot().epoch > Epoch(1) && coordinator_->Snapshot().serving) &&
         absl::Now() < deadline) {
    absl::SleepFor(absl::Milliseconds(5));
  }
  EXPECT_EQ(listener_->WaitFor(Ask(5)).tokens, expected.tokens);
}

TEST_F(ClusterTest, WorkersFollowIntoAUnitOfAnotherSize) {
  StartCoordinator(3);
  for (int i = 0; i < 3; ++i) StartWorker("inprocess");
  ASSERT_TRUE(WaitUntilServing());
  const Listener::Outcome expected = listener_->WaitFor(Ask(5));
  const std::string address = coordinator_->cluster_address();
  for (int workers : {1, 3}) {
    coordinator_->Stop(absl::Now() + absl::Milliseconds(200));
    StartCoordinator(workers, address);
    ASSERT_TRUE(WaitUntilServing()) << workers;
    EXPECT_EQ(coordinator_->Snapshot().workers.size(), static_cast<size_t>(workers));
    EXPECT_EQ(listener_->WaitFor(Ask(5)).tokens, expected.tokens) << workers;
  }
}

TEST_F(ClusterTest, ADrainLetsRunningRequestsFinish) {
  StartCoordinator(1);
  StartWorker("inprocess");
  ASSERT_TRUE(WaitUntilServing());
  const RequestId running = Ask(30);
  listener_->WaitForTokens(running, 1);
  EXPECT_TRUE(coordinator_->Drain(absl::Now() + kPatience));
  EXPECT_EQ(listener_->WaitFor(running).tokens.size(), 30u);
  EXPECT_EQ(listener_->WaitFor(Ask(5)).error.code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace shoal
