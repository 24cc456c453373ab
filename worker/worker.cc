// SPDX-License-Identifier: Apache-2.0
#include "worker/worker.h"

#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "proto/cluster.pb.h"
#include "spdlog/spdlog.h"

namespace shoal {
namespace {

constexpr int kProtocolVersion = 1;
constexpr absl::Duration kConnectTimeout = absl::Seconds(10);
// After a failed connect the core usually knows why and raises the epoch; if it does not, dialling
// anew makes it.
constexpr absl::Duration kConnectGrace = absl::Seconds(2);
constexpr absl::Duration kMinBackoff = absl::Milliseconds(50);
constexpr absl::Duration kMaxBackoff = absl::Seconds(2);
// How often a worker says that it still cannot join.
constexpr absl::Duration kReportPeriod = absl::Seconds(30);

// A coordinator that ends the stream in one of these ways will do so again.
bool IsForGood(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kUnimplemented:
    case absl::StatusCode::kUnauthenticated:
    case absl::StatusCode::kPermissionDenied:
      return true;
    default:
      return false;
  }
}

absl::StatusOr<ExpertPlacement> PlacementOf(const proto::AssignRank& assign) {
  std::vector<std::vector<std::vector<RankId>>> holders;
  for (const proto::LayerPlacement& layer : assign.placement()) {
    std::vector<std::vector<RankId>>& experts = holders.emplace_back();
    int next = 0;
    for (int32_t replicas : layer.replicas()) {
      std::vector<RankId>& ranks = experts.emplace_back();
      for (int32_t i = 0; i < replicas && next < layer.ranks_size(); ++i)
        ranks.push_back(RankId(layer.ranks(next++)));
    }
    if (next != layer.ranks_size())
      return absl::InvalidArgumentError("assignment: more ranks than replicas");
  }
  return ExpertPlacement::Create(assign.endpoints_size(), std::move(holders));
}

}  // namespace

Worker::Worker(WorkerOptions options) : options_(std::move(options)) {
  std::random_device random;
  boot_nonce_ = (uint64_t{random()} << 32 | random()) | 1;
}

Worker::~Worker() {
  if (loader_.joinable()) loader_.join();
}

bool Worker::stopped() {
  absl::MutexLock lock(&mutex_);
  return stop_;
}

void Worker::SleepUnlessStopped(absl::Duration duration) {
  absl::MutexLock lock(&mutex_);
  mutex_.AwaitWithTimeout(absl::Condition(&stop_), duration);
}

void Worker::Stop() {
  absl::MutexLock lock(&mutex_);
  stop_ = true;
  if (link_ != nullptr) link_->Wake();
  if (interruptible_ != nullptr) interruptible_->Cancel();
}

void Worker::Interrupt() {
  absl::MutexLock lock(&mutex_);
  if (interruptible_ != nullptr) interruptible_->Cancel();
}

absl::Status Worker::OpenFabric() {
  FabricOptions fabric = options_.fabric;
  fabric.max_message_bytes =
      Model::MaxMessageBytes(options_.model, *kernels_, options_.max_batch_rows);
  SHOAL_ASSIGN_OR_RETURN(fabric_, Fabric::Create(fabric));
  return absl::OkStatus();
}

void Worker::FillHello(proto::Hello& hello) const {
  hello.set_protocol_version(kProtocolVersion);
  hello.set_build(options_.build);
  hello.set_model(options_.fingerprint);
  hello.set_numerics(
      absl::StrCat(kernels_->numerics(), options_.fp8_activations ? " fp8-activations" : ""));
  hello.set_transport(std::string(fabric_->transport()));
  hello.set_block_tokens(options_.block_tokens);
  hello.set_max_batch_rows(options_.max_batch_rows);
  hello.set_max_running(options_.max_running);
  hello.set_endpoint(fabric_->endpoint());
  hello.set_host(options_.host);
  hello.set_pid(getpid());
  hello.set_cache_blocks(options_.cache_blocks);
  if (fabric_->fixed_rank() >= 0) {
    hello.set_wanted_rank(fabric_->fixed_rank());
  } else if (rank_.value() >= 0) {
    hello.set_wanted_rank(rank_.value());  // whose experts are loaded
  }
  hello.set_boot_nonce(boot_nonce_);
  hello.set_last_epoch(epoch_.value());
}

absl::Status Worker::Run() {
  SHOAL_ASSIGN_OR_RETURN(kernels_,
                         CreateKernels(options_.backend, BackendOptions{options_.threads}));
  absl::Duration backoff = kMinBackoff;
  absl::Time last_contact = absl::Now();
  std::string last_reason;
  absl::Time next_report = absl::InfinitePast();
  while (!stopped()) {
    if (fabric_ == nullptr) SHOAL_RETURN_IF_ERROR(OpenFabric());
    proto::Hello hello;
    FillHello(hello);
    CoordinatorLinkOptions link_options = options_.link;
    link_options.on_interrupt = [this] { Interrupt(); };
    SHOAL_ASSIGN_OR_RETURN(std::unique_ptr<CoordinatorLink> link,
                           CoordinatorLink::Dial(link_options, hello));
    {
      absl::MutexLock lock(&mutex_);
      link_ = link.get();
      if (stop_) link->Wake();
    }
    was_assigned_ = false;
    const absl::Status status = Serve(*link);
    {
      absl::MutexLock lock(&mutex_);
      link_ = nullptr;
    }
    link.reset();
    connected_ = ready_ = false;
    if (runner_ != nullptr) runner_->Reset();
    if (stopped() || status.ok()) break;
    const bool refused_wish = absl::IsInvalidArgument(status) || absl::IsAlreadyExists(status);
    if (refused_wish && rank_.value() >= 0 && fabric_->fixed_rank() < 0) {
      // Perhaps it was our old rank that it did not like. Any other will do.
      rank_ = RankId(-1);
    } else if (IsForGood(status)) {
      coordinator_knows_ = true;
      return status;
    } else if (moving_) {
      LeaveRank();
    }
    if (was_assigned_) {
      last_contact = absl::Now();
      backoff = kMinBackoff;
    }
    if (options_.supervised && absl::Now() - last_contact > options_.patience) {
      return absl::UnavailableError(
          absl::StrCat("coordinator ", options_.link.coordinator, ": ", status.message()));
    }
    // Once for each reason, and again from time to time, for who comes to look later.
    const bool news = status.message() != last_reason || absl::Now() >= next_report;
    if (news) next_report = absl::Now() + kReportPeriod;
    last_reason = std::string(status.message());
    spdlog::log(news ? spdlog::level::info : spdlog::level::debug,
                "coordinator {}: {}; dialling again", options_.link.coordinator, last_reason);
    SleepUnlessStopped(backoff);
    backoff = std::min(backoff * 2, kMaxBackoff);
  }
  if (loader_.joinable()) loader_.join();
  return absl::OkStatus();
}

// OK: leave for good. Errors that are not for good: dial anew.
absl::Status Worker::Serve(CoordinatorLink& link) {
  while (true) {
    SHOAL_RETURN_IF_ERROR(OnLoaded(link));
    SHOAL_ASSIGN_OR_RETURN(std::unique_ptr<proto::CoordinatorMessage> message,
                           link.Receive(abandon_at_));
    if (stopped()) {
      auto goodbye = std::make_unique<proto::WorkerMessage>();
      goodbye->mutable_goodbye();
      link.Send(std::move(goodbye));
      link.Finish(absl::Now() + absl::Milliseconds(500));
      return absl::OkStatus();
    }
    if (message == nullptr) {
      if (absl::Now() >= abandon_at_) {
        abandon_at_ = absl::InfiniteFuture();
        return absl::UnavailableError("the peers of this epoch cannot be reached");
      }
    } else if (message->has_step_plan()) {
      OnPlan(link, message->step_plan());
    } else if (message->has_assign_rank()) {
      SHOAL_RETURN_IF_ERROR(OnAssign(link, message->assign_rank()));
    } else if (message->has_standby()) {
      spdlog::info(
          "coordinator {}: all {} ranks are taken, {} workers are connected: standing by for one "
          "to become empty",
          options_.link.coordinator, message->standby().workers(), message->standby().connected());
    } else if (message->has_shutdown()) {
      link.Finish(absl::Now() + absl::Milliseconds(500));
      if (options_.supervised) return absl::OkStatus();
      return absl::UnavailableError(message->shutdown().reason());
    }
  }
}

absl::Status Worker::OnAssign(CoordinatorLink& link, const proto::AssignRank& assign) {
  connected_ = ready_ = false;
  abandon_at_ = absl::InfiniteFuture();
  was_assigned_ = true;
  if (runner_ != nullptr) runner_->Reset();
  epoch_ = Epoch(assign.epoch());
  token_limit_ = std::clamp(assign.token_limit(), 0, options_.model.vocab_size);
  const RankId rank(assign.rank());
  SHOAL_ASSIGN_OR_RETURN(ExpertPlacement placement, PlacementOf(assign));
  if (rank.value() < 0 || rank.value() >= placement.world_size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("assignment: rank ", rank.value(), " of ", placement.world_size()));
  }
  const std::vector<int> experts = options_.model.RoutedExperts();
  bool matches = placement.layers() == static_cast<int>(experts.size());
  for (size_t layer = 0; matches && layer < experts.size(); ++layer) {
    matches = placement.n_routed_experts(static_cast<int>(layer)) == experts[layer];
  }
  if (!matches) return absl::InvalidArgumentError("assignment: the placement is of another model");

  const bool moved = exchange_ != nullptr && (rank != exchange_->rank() ||
                                              placement.world_size() != exchange_->world_size());
  if (moved) {
    spdlog::info("rank {} of {}: another one than before, starting over", rank.value(),
                 placement.world_size());
    rank_ = rank;
    moving_ = true;  // once nothing of this connection can reach what it takes apart
    return absl::UnavailableError("taking another rank");
  }
  rank_ = rank;
  placement_ = std::move(placement);
  const std::vector<std::string> endpoints(assign.endpoints().begin(), assign.endpoints().end());
  absl::StatusOr<Exchange*> exchange =
      fabric_->Connect(epoch_, rank, endpoints, absl::Now() + kConnectTimeout);
  if (!exchange.ok()) {
    spdlog::warn("epoch {}: rank {} cannot connect to its peers: {}", epoch_.value(), rank.value(),
                 std::string(exchange.status().message()));
    // A worker that vanished meanwhile has no endpoint; the core will hear of it.
    const bool all_there = std::find(endpoints.begin(), endpoints.end(), "") == endpoints.end();
    if (absl::IsInvalidArgument(exchange.status()) && all_there) {
      return Leave(link, exchange.status());
    }
    abandon_at_ = absl::Now() + kConnectGrace;
    return absl::OkStatus();
  }
  if (exchange_ == nullptr) {
    exchange_ = std::make_unique<TimedExchange>(**exchange);
    absl::MutexLock lock(&mutex_);
    interruptible_ = *exchange;
  }
  connected_ = true;
  spdlog::info("epoch {}: rank {} of {}, connected over {}", epoch_.value(), rank.value(),
               endpoints.size(), std::string(fabric_->transport()));
  if (model_ == nullptr) {
    if (!loading_) StartLoading();
    return absl::OkStatus();
  }
  if (*placement_ != *loaded_placement_) {
    if (!model_->InstallPlacement(*placement_).ok()) {
      runner_.reset();
      model_.reset();
      StartLoading();
      return absl::OkStatus();
    }
    loaded_placement_ = placement_;
  }
  SendReady(link);
  return absl::OkStatus();
}

absl::Status Worker::Leave(CoordinatorLink& link, const absl::Status& why) {
  auto message = std::make_unique<proto::WorkerMessage>();
  proto::Status& status = *message->mutable_goodbye()->mutable_status();
  status.set_code(static_cast<int>(why.code()));
  status.set_message(std::string(why.message()));
  link.Send(std::move(message));
  link.Finish(absl::Now() + absl::Milliseconds(500));
  return absl::FailedPreconditionError(why.message());
}

void Worker::SendReady(CoordinatorLink& link) {
  ready_ = true;
  auto message = std::make_unique<proto::WorkerMessage>();
  message->mutable_ready()->set_epoch(epoch_.value());
  link.Send(std::move(message));
}

void Worker::StartLoading() {
  if (loader_.joinable()) loader_.join();
  loading_ = true;
  loaded_placement_ = placement_;
  loader_ = std::thread([this, placement = *placement_, rank = rank_] { Load(placement, rank); });
}

void Worker::Load(ExpertPlacement placement, RankId rank) {
  pthread_setname_np(pthread_self(), "loader");
  absl::Time next_report = absl::InfinitePast();
  ModelOptions load;
  load.rank = rank;
  load.max_batch_rows = options_.max_batch_rows;
  load.max_logit_rows = options_.max_running;
  load.block_tokens = options_.block_tokens;
  load.cache_blocks = options_.cache_blocks;
  load.fp8_activations = options_.fp8_activations;
  load.progress = [&](int64_t done, int64_t total) {
    const absl::Time now = absl::Now();
    if (now < next_report && done < total) return;
    next_report = now + absl::Milliseconds(100);
    auto message = std::make_unique<proto::WorkerMessage>();
    message->mutable_load_progress()->set_done_bytes(done);
    message->mutable_load_progress()->set_total_bytes(total);
    absl::MutexLock lock(&mutex_);
    if (link_ != nullptr) link_->Send(std::move(message));
  };
  absl::Status fits =
      options_.check_memory ? options_.check_memory(placement, rank) : absl::OkStatus();
  absl::StatusOr<std::unique_ptr<Model>> model =
      fits.ok() ? Model::Load(options_.model_directory, options_.model, placement, load, *kernels_,
                              *exchange_)
                : std::move(fits);
  absl::MutexLock lock(&mutex_);
  loaded_ = std::move(model);
  if (link_ != nullptr) link_->Wake();
}

absl::Status Worker::OnLoaded(CoordinatorLink& link) {
  absl::StatusOr<std::unique_ptr<Model>> loaded;
  {
    absl::MutexLock lock(&mutex_);
    if (!loaded_.has_value()) return absl::OkStatus();
    loaded = *std::move(loaded_);
    loaded_.reset();
  }
  loading_ = false;
  if (!loaded.ok()) {
    return Leave(link, loaded.status());
  }
  model_ = *std::move(loaded);
  StepRunnerOptions runner;
  runner.max_batch_rows = options_.max_batch_rows;
  runner.max_logit_rows = options_.max_running;
  runner.block_tokens = options_.block_tokens;
  runner.cache_blocks = options_.cache_blocks;
  runner.token_limit = token_limit_;
  runner_ = std::make_unique<StepRunner>(runner, *model_, exchange_.get());
  spdlog::info("rank {}: loaded {} MiB of weights", rank_.value(), model_->weight_bytes() >> 20);
  if (*placement_ != *loaded_placement_ && !model_->InstallPlacement(*placement_).ok()) {
    runner_.reset();
    model_.reset();
    StartLoading();
    return absl::OkStatus();
  }
  loaded_placement_ = placement_;
  if (connected_) SendReady(link);
  return absl::OkStatus();
}

void Worker::OnPlan(CoordinatorLink& link, const proto::StepPlan& plan) {
  if (!ready_ || Epoch(plan.epoch()) != epoch_) {
    spdlog::debug("a plan of epoch {} in epoch {} dropped", plan.epoch(), epoch_.value());
    return;
  }
  std::unique_ptr<proto::WorkerMessage> message = link.NewStepDone();
  proto::StepDone& done = *message->mutable_step_done();
  runner_->Run(plan, done);
  if (stopped()) return;  // it was abandoned; the goodbye that follows says more than a failed step
  if (done.status().code() != 0) {
    // What the plans after this one build on is unknown now; the coordinator raises the epoch.
    spdlog::warn("epoch {} step {} failed: {}", plan.epoch(), plan.step(), done.status().message());
    ready_ = false;
  }
  link.Send(std::move(message));
}

void Worker::LeaveRank() {
  if (loader_.joinable()) loader_.join();
  {
    absl::MutexLock lock(&mutex_);
    loaded_.reset();
    interruptible_ = nullptr;
  }
  loading_ = moving_ = false;
  runner_.reset();
  model_.reset();
  exchange_.reset();
  fabric_.reset();
}

}  // namespace shoal
