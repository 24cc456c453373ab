// SPDX-License-Identifier: Apache-2.0
#include "worker/worker.h"

#include <unistd.h>

#include <algorithm>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/connect_time.h"
#include "engine/base/status_macros.h"
#include "engine/parallel/blamed_peers.h"
#include "proto/cluster.pb.h"
#include "spdlog/spdlog.h"

namespace shoal {
namespace {

constexpr int kProtocolVersion = 1;
constexpr absl::Duration kMinBackoff = absl::Milliseconds(20);
constexpr absl::Duration kMaxBackoff = absl::Seconds(2);
// Loading must not take the cores from those who serve meanwhile.
constexpr int kBackground = 10;
// How often a worker says which experts its rows went to.
constexpr absl::Duration kExpertTokensPeriod = absl::Seconds(5);
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

absl::StatusOr<ExpertPlacement> ParsePlacement(
    const google::protobuf::RepeatedPtrField<proto::LayerPlacement>& layers, int world_size) {
  std::vector<std::vector<std::vector<RankId>>> holders;
  for (const proto::LayerPlacement& layer : layers) {
    std::vector<std::vector<RankId>>& experts = holders.emplace_back();
    int next = 0;
    for (int32_t replicas : layer.replicas()) {
      std::vector<RankId>& ranks = experts.emplace_back();
      for (int32_t i = 0; i < replicas && next < layer.ranks_size(); ++i)
        ranks.push_back(RankId(layer.ranks(next++)));
    }
    if (next != layer.ranks_size())
      return absl::InvalidArgumentError("placement: more ranks than replicas");
  }
  return ExpertPlacement::Create(world_size, std::move(holders));
}

absl::Status CheckRank(int rank, const ExpertPlacement& placement, const ModelConfig& model) {
  if (rank < 0 || rank >= placement.world_size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("placement: rank ", rank, " of ", placement.world_size()));
  }
  return placement.CheckFits(placement.world_size(), model.RoutedExperts());
}

// Calls visit(layer, expert, holder) for every copy of every expert.
template <typename Visit>
void ForEachCopy(const ExpertPlacement& placement, Visit visit) {
  for (int layer = 0; layer < placement.layers(); ++layer) {
    for (int expert = 0; expert < placement.n_routed_experts(layer); ++expert) {
      for (RankId holder : placement.Holders(layer, ExpertId(expert))) {
        visit(layer, ExpertId(expert), holder);
      }
    }
  }
}

std::vector<RankId> AbsentRanks(const std::vector<std::string>& endpoints) {
  std::vector<RankId> absent;
  for (size_t rank = 0; rank < endpoints.size(); ++rank) {
    if (endpoints[rank].empty()) absent.push_back(RankId(static_cast<int32_t>(rank)));
  }
  return absent;
}

// Whether who has loaded what `loaded` gives to `rank` holds all that `wanted` gives it.
bool Covers(const ExpertPlacement& loaded, const ExpertPlacement& wanted, RankId rank) {
  bool covers = loaded.layers() == wanted.layers();
  ForEachCopy(wanted, [&](int layer, ExpertId expert, RankId holder) {
    if (holder != rank || !covers) return;
    const absl::Span<const RankId> holders = loaded.Holders(layer, expert);
    covers = std::find(holders.begin(), holders.end(), rank) != holders.end();
  });
  return covers;
}

}  // namespace

Worker::Worker(WorkerOptions options)
    : options_(std::move(options)), environment_(*options_.environment) {
  std::random_device random;
  boot_nonce_ = (uint64_t{random()} << 32 | random()) | 1;
}

Worker::~Worker() { loader_.reset(); }

bool Worker::stopped() {
  absl::MutexLock lock(&mutex_);
  return stop_;
}

void Worker::SleepUnlessStopped(absl::Duration duration) {
  environment_.SleepUntil(environment_.Now() + duration, mutex_, stop_);
}

void Worker::Stop() {
  absl::MutexLock lock(&mutex_);
  stop_ = true;
  if (link_ != nullptr) link_->Wake();
  if (connecting_ != nullptr) connecting_->Abandon(Epoch(std::numeric_limits<int64_t>::max()));
  if (interruptible_ != nullptr) interruptible_->Cancel();
}

// A lost stream ends all that this connection was told to do: the coordinator raises the epoch.
void Worker::Interrupt(std::optional<Epoch> assigned) {
  absl::MutexLock lock(&mutex_);
  const Epoch next = assigned.has_value() ? *assigned : assigned_.Next();
  if (assigned.has_value()) assigned_ = std::max(assigned_, *assigned);
  if (connecting_ != nullptr) connecting_->Abandon(next);
  if (interruptible_ != nullptr) interruptible_->Cancel();
}

absl::Status Worker::OpenFabric() {
  FabricOptions fabric = options_.fabric;
  fabric.max_message_bytes =
      Model::MaxMessageBytes(options_.model, *kernels_, options_.max_batch_rows);
  SHOAL_ASSIGN_OR_RETURN(fabric_, environment_.CreateFabric(fabric));
  absl::MutexLock lock(&mutex_);
  connecting_ = fabric_.get();
  return absl::OkStatus();
}

void Worker::FillHello(proto::Hello& hello) {
  hello.set_protocol_version(kProtocolVersion);
  hello.set_build(options_.build);
  hello.set_model(options_.fingerprint);
  hello.set_numerics(
      absl::StrCat(kernels_->numerics(), options_.fp8_activations ? " fp8-activations" : ""));
  hello.set_transport(std::string(fabric_->transport()));
  hello.set_cluster(options_.fabric.cluster);
  hello.set_block_tokens(options_.block_tokens);
  hello.set_max_batch_rows(options_.max_batch_rows);
  hello.set_max_running(options_.max_running);
  hello.set_endpoint(fabric_->endpoint());
  hello.set_host(options_.host);
  hello.set_pid(getpid());
  hello.set_supervised_as(options_.supervised_as);
  hello.set_cache_blocks(options_.cache_blocks);
  if (fabric_->fixed_rank() >= 0) {
    hello.set_wanted_rank(fabric_->fixed_rank());
    hello.set_rank_fixed(true);
  } else if (rank_.value() >= 0) {
    hello.set_wanted_rank(rank_.value());  // whose experts are loaded
  }
  hello.set_boot_nonce(boot_nonce_);
  // Also one that was not come to: the fabric has abandoned all up to it.
  absl::MutexLock lock(&mutex_);
  hello.set_last_epoch(assigned_.value());
}

absl::Status Worker::Run() {
  SHOAL_ASSIGN_OR_RETURN(kernels_,
                         CreateKernels(options_.backend, BackendOptions{options_.threads}));
  absl::Duration backoff = kMinBackoff;
  absl::Time last_contact = environment_.Now();
  std::string last_reason;
  absl::Time next_report = absl::InfinitePast();
  while (!stopped()) {
    if (fabric_ == nullptr) SHOAL_RETURN_IF_ERROR(OpenFabric());
    proto::Hello hello;
    FillHello(hello);
    CoordinatorLinkOptions link_options = options_.link;
    link_options.on_interrupt = [this](std::optional<Epoch> assigned) { Interrupt(assigned); };
    SHOAL_ASSIGN_OR_RETURN(std::unique_ptr<CoordinatorLink> link,
                           environment_.Dial(link_options, hello));
    {
      absl::MutexLock lock(&mutex_);
      link_ = link.get();
      if (stop_) link->Wake();
    }
    was_told_ = false;
    const absl::Status status = Serve(*link);
    {
      absl::MutexLock lock(&mutex_);
      link_ = nullptr;
    }
    link.reset();
    connected_ = ready_ = false;
    owed_serial_.reset();
    if (runner_ != nullptr) runner_->Reset();
    if (stopped() || status.ok()) break;
    const bool refused_wish = absl::IsInvalidArgument(status) || absl::IsAlreadyExists(status);
    if (refused_wish && rank_.value() >= 0 && fabric_->fixed_rank() < 0) {
      // Perhaps it was our old rank that it did not like. Any other will do.
      rank_ = RankId(-1);
    } else if (IsForGood(status)) {
      coordinator_knows_ = true;
      return status;
    } else if (absl::IsOutOfRange(status) && fabric_->fixed_rank() < 0) {
      ForgetEpochs();
    } else if (moving_) {
      LeaveRank();
    }
    if (was_told_) {
      last_contact = environment_.Now();
      backoff = kMinBackoff;
    }
    if (options_.supervised && environment_.Now() - last_contact > options_.patience) {
      return absl::UnavailableError(
          absl::StrCat("coordinator ", options_.link.coordinator, ": ", status.message()));
    }
    // Once for each reason, and again from time to time, for who comes to look later.
    const bool news = status.message() != last_reason || environment_.Now() >= next_report;
    if (news) next_report = environment_.Now() + kReportPeriod;
    last_reason = std::string(status.message());
    spdlog::log(news ? spdlog::level::info : spdlog::level::debug,
                "coordinator {}: {}; dialling again", options_.link.coordinator, last_reason);
    SleepUnlessStopped(backoff);
    backoff = std::min(backoff * 2, kMaxBackoff);
  }
  loader_.reset();
  return absl::OkStatus();
}

// OK: leave for good. Errors that are not for good: dial anew.
absl::Status Worker::Serve(CoordinatorLink& link) {
  told_placement_.reset();
  while (true) {
    SHOAL_RETURN_IF_ERROR(OnLoaded(link));
    if (environment_.Now() >= report_expert_tokens_at_) ReportExpertTokens(link);
    SHOAL_ASSIGN_OR_RETURN(std::unique_ptr<proto::CoordinatorMessage> message,
                           link.Receive(report_expert_tokens_at_));
    if (stopped()) {
      auto goodbye = std::make_unique<proto::WorkerMessage>();
      goodbye->mutable_goodbye();
      link.Send(std::move(goodbye));
      link.Finish(environment_.Now() + absl::Milliseconds(500));
      return absl::OkStatus();
    }
    if (message == nullptr) continue;
    if (message->has_step_plan()) {
      OnPlan(link, message->step_plan());
    } else if (message->has_assign_rank()) {
      SHOAL_RETURN_IF_ERROR(OnAssign(link, message->assign_rank()));
    } else if (message->has_load_experts()) {
      SHOAL_RETURN_IF_ERROR(OnLoadExperts(link, message->load_experts()));
    } else if (message->has_standby()) {
      spdlog::info(
          "coordinator {}: all {} ranks are taken, {} workers are connected: standing by for one "
          "to become empty",
          options_.link.coordinator, message->standby().workers(), message->standby().connected());
    } else if (message->has_shutdown()) {
      link.Finish(environment_.Now() + absl::Milliseconds(500));
      if (options_.supervised) return absl::OkStatus();
      return absl::UnavailableError(message->shutdown().reason());
    }
  }
}

absl::Status Worker::OnAssign(CoordinatorLink& link, const proto::AssignRank& assign) {
  connected_ = ready_ = false;
  was_told_ = true;
  token_limit_ = std::clamp(assign.token_limit(), 0, options_.model.vocab_size);
  const std::vector<std::string> endpoints(assign.endpoints().begin(), assign.endpoints().end());
  if (!assign.placement().empty()) {
    SHOAL_ASSIGN_OR_RETURN(told_placement_,
                           ParsePlacement(assign.placement(), assign.endpoints_size()));
  }
  if (!told_placement_.has_value() || told_placement_->world_size() != assign.endpoints_size()) {
    return absl::InvalidArgumentError(absl::StrCat("assignment: no placement over ",
                                                   assign.endpoints_size(), " ranks was told"));
  }
  SHOAL_RETURN_IF_ERROR(CheckRank(assign.rank(), *told_placement_, options_.model));
  SHOAL_ASSIGN_OR_RETURN(ExpertPlacement placement,
                         told_placement_->Without(AbsentRanks(endpoints)));
  SHOAL_RETURN_IF_ERROR(TakeRank(RankId(assign.rank()), placement.world_size()));
  epoch_ = Epoch(assign.epoch());
  placement_ = std::move(placement);
  host_of_rank_.assign(assign.host_of_rank().begin(), assign.host_of_rank().end());
  if (host_of_rank_.size() != endpoints.size()) host_of_rank_.clear();
  SHOAL_RETURN_IF_ERROR(EnsureShare(*placement_, /*niceness=*/0));
  SHOAL_RETURN_IF_ERROR(Connect(link, endpoints));
  return Report(link);
}

absl::Status Worker::OnLoadExperts(CoordinatorLink& link, const proto::LoadExperts& load) {
  was_told_ = true;
  SHOAL_ASSIGN_OR_RETURN(told_placement_, ParsePlacement(load.placement(), load.world_size()));
  SHOAL_RETURN_IF_ERROR(CheckRank(load.rank(), *told_placement_, options_.model));
  SHOAL_RETURN_IF_ERROR(TakeRank(RankId(load.rank()), told_placement_->world_size()));
  owed_serial_ = load.serial();
  SHOAL_RETURN_IF_ERROR(EnsureShare(*told_placement_, kBackground));
  return Report(link);
}

absl::Status Worker::TakeRank(RankId rank, int world_size) {
  const bool moved = exchange_ != nullptr &&
                     (rank != exchange_->rank() || world_size != exchange_->world_size());
  rank_ = rank;
  if (moved) {
    spdlog::info("rank {} of {}: another one than before, starting over", rank.value(),
                 world_size);
    moving_ = true;  // once nothing of this connection can reach what it takes apart
    return absl::UnavailableError("taking another rank");
  }
  if (exchange_ == nullptr) {
    exchange_ = std::make_unique<TimedExchange>(
        rank, world_size,
        Model::MaxMessageBytes(options_.model, *kernels_, options_.max_batch_rows),
        [this] { return environment_.Now(); });
  }
  return absl::OkStatus();
}

absl::Status Worker::Connect(CoordinatorLink& link, const std::vector<std::string>& endpoints) {
  absl::StatusOr<Exchange*> exchange = fabric_->Connect(
      epoch_, rank_, endpoints,
      environment_.Now() + ConnectTime(static_cast<int64_t>(endpoints.size())));
  if (!exchange.ok()) {
    const absl::Status& why = exchange.status();
    spdlog::log(absl::IsAborted(why) ? spdlog::level::info : spdlog::level::warn,
                "epoch {}: rank {} cannot connect to its peers: {}", epoch_.value(), rank_.value(),
                std::string(why.message()));
    // Nobody is to blame who could come back, and no later epoch will change it. A peer's endpoint
    // or answer may have that code too.
    if (absl::IsInvalidArgument(why) && BlamedPeers(why).empty()) return Leave(link, why);
    ReportConnectFailure(link, why);
    return absl::OkStatus();
  }
  exchange_->Attach(*exchange);
  absl::MutexLock lock(&mutex_);
  interruptible_ = *exchange;
  if (assigned_ > epoch_) return absl::OkStatus();  // the epoch has ended meanwhile
  const auto present = endpoints.size() - std::count(endpoints.begin(), endpoints.end(), "");
  spdlog::info("epoch {}: rank {}, connected to {} of {} ranks over {}", epoch_.value(),
               rank_.value(), present, endpoints.size(), std::string(fabric_->transport()));
  connected_ = true;
  return absl::OkStatus();
}

void Worker::ReportConnectFailure(CoordinatorLink& link, const absl::Status& why) {
  auto message = std::make_unique<proto::WorkerMessage>();
  proto::ConnectFailed& failed = *message->mutable_connect_failed();
  failed.set_epoch(epoch_.value());
  failed.mutable_status()->set_code(static_cast<int>(why.code()));
  failed.mutable_status()->set_message(std::string(why.message()));
  for (const RankId rank : BlamedPeers(why)) failed.add_ranks(rank.value());
  link.Send(std::move(message));
}

absl::Status Worker::Leave(CoordinatorLink& link, const absl::Status& why) {
  auto message = std::make_unique<proto::WorkerMessage>();
  proto::Status& status = *message->mutable_goodbye()->mutable_status();
  status.set_code(static_cast<int>(why.code()));
  status.set_message(std::string(why.message()));
  link.Send(std::move(message));
  link.Finish(environment_.Now() + absl::Milliseconds(500));
  return absl::FailedPreconditionError(why.message());
}

absl::Status Worker::EnsureShare(const ExpertPlacement& placement, int niceness) {
  if (share_.has_value() && Covers(*share_, placement, rank_)) return absl::OkStatus();
  if (ready_) {
    return absl::FailedPreconditionError(
        "told to load other experts than the ones this rank is serving with");
  }
  runner_.reset();
  model_.reset();
  expert_tokens_.Reset();
  StartLoading(placement, niceness);
  return absl::OkStatus();
}

void Worker::StartLoading(const ExpertPlacement& placement, int niceness) {
  loader_.reset();
  {
    absl::MutexLock lock(&mutex_);
    loaded_.reset();  // what was being loaded is not what is wanted now
  }
  share_ = placement;
  loader_ = environment_.RunInBackground(
      [this, placement, rank = rank_] { Load(placement, rank); }, niceness);
}

void Worker::Load(const ExpertPlacement& placement, RankId rank) {
  absl::Time next_report = absl::InfinitePast();
  ModelOptions load;
  load.rank = rank;
  load.max_batch_rows = options_.max_batch_rows;
  load.max_logit_rows = options_.max_running;
  load.block_tokens = options_.block_tokens;
  load.cache_blocks = options_.cache_blocks;
  load.fp8_activations = options_.fp8_activations;
  load.progress = [&](int64_t done, int64_t total) {
    const absl::Time now = environment_.Now();
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
      fits.ok() ? environment_.LoadModel(options_.model_directory, options_.model, placement,
                                          load, *kernels_, *exchange_)
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
  if (!loaded.ok()) {
    return Leave(link, loaded.status());
  }
  model_ = *std::move(loaded);
  spdlog::info("rank {}: loaded {} MiB of weights", rank_.value(), model_->weight_bytes() >> 20);
  return Report(link);
}

absl::Status Worker::Report(CoordinatorLink& link) {
  if (model_ == nullptr) return absl::OkStatus();
  if (owed_serial_.has_value()) {
    auto message = std::make_unique<proto::WorkerMessage>();
    message->mutable_loaded()->set_serial(*owed_serial_);
    owed_serial_.reset();
    link.Send(std::move(message));
  }
  if (!connected_ || ready_) return absl::OkStatus();
  SHOAL_RETURN_IF_ERROR(model_->InstallPlacement(*placement_, host_of_rank_));
  if (runner_ == nullptr) {
    StepRunnerOptions runner;
    runner.max_batch_rows = options_.max_batch_rows;
    runner.max_logit_rows = options_.max_running;
    runner.block_tokens = options_.block_tokens;
    runner.cache_blocks = options_.cache_blocks;
    runner.token_limit = token_limit_;
    runner.now = [this] { return environment_.Now(); };
    runner_ = std::make_unique<StepRunner>(runner, *model_, exchange_.get());
  }
  ready_ = true;
  auto message = std::make_unique<proto::WorkerMessage>();
  message->mutable_ready()->set_epoch(epoch_.value());
  link.Send(std::move(message));
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
    connected_ = ready_ = false;
  }
  link.Send(std::move(message));
  if (report_expert_tokens_at_ == absl::InfiniteFuture()) {
    report_expert_tokens_at_ = environment_.Now() + kExpertTokensPeriod;
  }
}

void Worker::ReportExpertTokens(CoordinatorLink& link) {
  report_expert_tokens_at_ = absl::InfiniteFuture();
  if (model_ == nullptr) return;
  auto message = std::make_unique<proto::WorkerMessage>();
  if (expert_tokens_.Take(*model_, *message->mutable_expert_tokens())) {
    link.Send(std::move(message));
  }
}

// They were those of another cluster, or made up: nothing of them is left.
void Worker::ForgetEpochs() {
  LeaveRank();
  rank_ = RankId(-1);
  epoch_ = Epoch();
  absl::MutexLock lock(&mutex_);
  assigned_ = Epoch();
}

void Worker::LeaveRank() {
  loader_.reset();
  {
    absl::MutexLock lock(&mutex_);
    loaded_.reset();
    connecting_ = nullptr;
    interruptible_ = nullptr;
  }
  moving_ = false;
  runner_.reset();
  model_.reset();
  expert_tokens_.Reset();
  share_.reset();
  exchange_.reset();
  fabric_.reset();
}

}  // namespace shoal
