// SPDX-License-Identifier: Apache-2.0
#include "deploy/shoal/local_unit.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/base/steady_clock.h"
#include "engine/parallel/local.h"

namespace shoal {
namespace {

// Nobody brings a rank back: one whose core others have is waited for.
constexpr absl::Duration kSilenceTimeout = absl::Seconds(16);

// Units of one process must not meet in one hub.
std::string UniqueCluster() {
  static std::atomic<int> count{0};
  return absl::StrCat("local-", getpid(), "-", count++);
}

}  // namespace

LocalUnit::~LocalUnit() {
  // Models refer to exchanges, exchanges belong to fabrics.
  for (Rank& rank : ranks_) rank.model.reset();
}

absl::StatusOr<std::unique_ptr<LocalUnit>> LocalUnit::Create(const ModelConfig& config,
                                                             const LocalUnitOptions& options) {
  std::unique_ptr<LocalUnit> unit(new LocalUnit());
  unit->world_size_ = options.workers;
  unit->timeout_ = options.timeout;
  ExpertPlacement placement;
  if (options.placement != nullptr) {
    placement = *options.placement;
  } else {
    SHOAL_ASSIGN_OR_RETURN(placement,
                           ExpertPlacement::Contiguous(options.workers, config.RoutedExperts()));
  }
  SHOAL_RETURN_IF_ERROR(unit->OpenFabrics(config, options));
  SHOAL_RETURN_IF_ERROR(unit->ForEachRank(
      [&](RankId id, Rank& rank) -> absl::Status {
        ModelOptions model_options = options.options;
        model_options.rank = id;
        SHOAL_ASSIGN_OR_RETURN(
            rank.model, Model::Load(options.model, config, placement, model_options, *rank.kernels,
                                    *rank.exchange));
        return absl::OkStatus();
      },
      false));
  return unit;
}

absl::Status LocalUnit::OpenFabrics(const ModelConfig& config, const LocalUnitOptions& options) {
  const bool mpi = options.transport == "mpi";
  const int locals = mpi ? 1 : options.workers;
  const int threads =
      options.threads > 0 ? options.threads : static_cast<int>(std::thread::hardware_concurrency());
  FabricOptions fabric_options;
  fabric_options.transport = options.transport;
  fabric_options.silence_timeout = kSilenceTimeout;
  // The processes of an MPI job have nothing in common but the job.
  fabric_options.cluster = mpi ? "mpi" : UniqueCluster();
  ranks_.resize(locals);
  std::vector<std::string> endpoints(options.workers);
  for (int i = 0; i < locals; ++i) {
    Rank& rank = ranks_[i];
    SHOAL_ASSIGN_OR_RETURN(
        rank.kernels, CreateKernels(options.backend, {.threads = std::max(1, threads / locals)}));
    fabric_options.max_message_bytes =
        Model::MaxMessageBytes(config, *rank.kernels, options.options.max_batch_rows);
    if (options.workers == 1 && !mpi) {
      rank.local_exchange = std::make_unique<LocalExchange>(fabric_options.max_message_bytes);
      rank.exchange = rank.local_exchange.get();
      local_ranks_.push_back(RankId(0));
      return absl::OkStatus();
    }
    SHOAL_ASSIGN_OR_RETURN(rank.fabric, Fabric::Create(fabric_options));
    const int id = mpi ? rank.fabric->fixed_rank() : i;
    if (id < 0 || id >= options.workers) {
      return absl::InvalidArgumentError(
          absl::StrCat("mpirun: want ", options.workers, " processes, found rank ", id));
    }
    local_ranks_.push_back(RankId(id));
    if (mpi) {
      for (int r = 0; r < options.workers; ++r) endpoints[r] = rank.fabric->EndpointOf(RankId(r));
    }
    endpoints[id] = rank.fabric->endpoint();
  }
  const absl::Time deadline = SteadyNow() + options.timeout;
  return ForEachRank(
      [&](RankId id, Rank& rank) -> absl::Status {
        SHOAL_ASSIGN_OR_RETURN(rank.exchange,
                               rank.fabric->Connect(Epoch(1), id, endpoints, deadline));
        return absl::OkStatus();
      },
      false);
}

Model& LocalUnit::model(RankId rank) {
  for (size_t i = 0; i < local_ranks_.size(); ++i) {
    if (local_ranks_[i] == rank) return *ranks_[i].model;
  }
  SHOAL_CHECK(false && "not a local rank");
  return *ranks_[0].model;
}

Kernels& LocalUnit::kernels(RankId rank) {
  for (size_t i = 0; i < local_ranks_.size(); ++i) {
    if (local_ranks_[i] == rank) return *ranks_[i].kernels;
  }
  SHOAL_CHECK(false && "not a local rank");
  return *ranks_[0].kernels;
}

StepTag LocalUnit::Tag(int64_t step) const {
  return {Epoch(1), StepId(step), SteadyNow() + timeout_};
}

absl::Status LocalUnit::Run(const std::function<absl::Status(RankId, Model&)>& body) {
  return ForEachRank([&](RankId id, Rank& rank) { return body(id, *rank.model); }, true);
}

absl::Status LocalUnit::ForEachRank(const std::function<absl::Status(RankId, Rank&)>& body,
                                    bool cancel_others) {
  absl::Mutex mutex;
  absl::Status first;
  const auto run = [&](size_t i) {
    absl::Status status = body(local_ranks_[i], ranks_[i]);
    if (status.ok()) return;
    absl::MutexLock lock(&mutex);
    if (!first.ok()) return;
    first = std::move(status);
    // The others would wait for this rank's messages until their deadline.
    if (cancel_others) {
      for (Rank& rank : ranks_) rank.exchange->Cancel();
    }
  };
  std::vector<std::thread> threads;
  for (size_t i = 1; i < ranks_.size(); ++i) threads.emplace_back(run, i);
  run(0);
  for (std::thread& thread : threads) thread.join();
  return first;
}

}  // namespace shoal
