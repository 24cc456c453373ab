// SPDX-License-Identifier: Apache-2.0
#include "deploy/shoal/local_workers.h"

#include <pthread.h>
#include <unistd.h>

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "deploy/shoal/config_fields.h"
#include "deploy/shoal/mpirun.h"
#include "deploy/shoal/worker_options.h"
#include "engine/base/status_macros.h"
#include "engine/base/steady_clock.h"
#include "spdlog/spdlog.h"

namespace shoal {
namespace {

// Deaths by signal before the cluster has served for the first time that are taken for accidents.
constexpr int kMaxEarlyCrashes = 3;
// A worker that is not heard any more may only stand still: loading its weights anew takes longer
// than waiting a little.
constexpr absl::Duration kTimeToReturn = absl::Seconds(10);

}  // namespace

LocalWorkers::LocalWorkers(const ShoalConfig& config, const ServedModel& model, StopSignal& stop)
    : config_(config), model_(model), stop_(stop) {}

LocalWorkers::~LocalWorkers() { Stop(absl::ZeroDuration()); }

std::vector<std::string> LocalWorkers::WorkerCommand(const std::string& coordinator) const {
  ShoalConfig worker = config_;
  worker.coordinator = coordinator;
  worker.supervised = true;
  worker.exit_with_parent = config_.transport == "mpi";
  std::vector<std::string> command;
  if (config_.transport == "mpi") {
    command = {OwnPath(), "guard"};
    for (std::string& word : MpirunCommand(config_.workers, config_.holders > 1)) {
      command.push_back(std::move(word));
    }
  }
  command.insert(command.end(), {OwnPath(), "worker"});
  for (std::string& flag : ConfigToFlags(worker, kWorker)) command.push_back(std::move(flag));
  return command;
}

absl::Status LocalWorkers::Start(const std::string& coordinator) {
  if (config_.transport == "inprocess") {
    StartThreads(coordinator);
    return absl::OkStatus();
  }
  const bool mpi = config_.transport == "mpi";
  SupervisorOptions options;
  ChildSpec child;
  child.argv = WorkerCommand(coordinator);
  if (mpi) {
    child.name = "mpirun";
    options.children.push_back(std::move(child));
  } else {
    for (int i = 0; i < config_.workers; ++i) {
      child.name = absl::StrCat("worker process ", i);
      options.children.push_back(child);
    }
  }
  options.restart = [this](const ChildExit& exit) { return RestartAfter(exit); };
  SHOAL_ASSIGN_OR_RETURN(supervisor_, Supervisor::Start(std::move(options)));
  if (mpi) return absl::OkStatus();  // the child is mpirun's guard: no rank can be ended alone
  absl::MutexLock lock(&mutex_);
  killer_ = supervisor_.get();
  return absl::OkStatus();
}

void LocalWorkers::StartThreads(const std::string& coordinator) {
  ShoalConfig config = config_;
  config.coordinator = coordinator;
  config.supervised = true;
  for (int i = 0; i < config.workers; ++i) {
    workers_.push_back(std::make_unique<Worker>(
        MakeWorkerOptions(config, model_.config, model_.fingerprint, config.cache_blocks)));
    threads_.emplace_back([this, worker = workers_.back().get()] {
      pthread_setname_np(pthread_self(), "worker");
      const absl::Status status = worker->Run();
      if (!status.ok()) stop_.Fail(status);
    });
  }
}

bool LocalWorkers::RestartAfter(const ChildExit& exit) {
  job_watch_.Restarted();
  // Shells and mpirun report a signal as a code beyond 128.
  const bool crashed = exit.signal != 0 || exit.code > 128;
  if (has_served_) {
    LogRestart(exit, crashed);
    return true;
  }
  if (crashed && ++early_crashes_ <= kMaxEarlyCrashes) {
    spdlog::warn("{} before the cluster was ready; starting it again", exit.ToString());
    return true;
  }
  // If it told the coordinator why, that is known already and counts.
  stop_.Fail(
      absl::UnavailableError(absl::StrCat(exit.ToString(), " before the cluster was ready")));
  return false;
}

// Whoever ends by itself, as for a model that it cannot serve, will do so after every start.
void LocalWorkers::LogRestart(const ChildExit& exit, bool crashed) {
  std::optional<std::string> more = "";
  if (!crashed) more = repeats_.Say(absl::StrCat(exit.name, ": code ", exit.code), SteadyNow());
  spdlog::log(more.has_value() ? spdlog::level::warn : spdlog::level::debug,
              "{}; starting it again{}", exit.ToString(), more.value_or(""));
}

void LocalWorkers::OnFailure(const WorkerIdentity& worker, const absl::Status& why) {
  if (!has_served_) {
    stop_.Fail(why);
    return;
  }
  const std::string reason(why.message());
  const auto more = repeats_.Say(absl::StrCat(worker.host, ": ", reason), SteadyNow());
  spdlog::log(more.has_value() ? spdlog::level::err : spdlog::level::debug, "worker {} on {}: {}{}",
              worker.pid, worker.host, reason, more.value_or(""));
}

void LocalWorkers::OnEvicted(const WorkerIdentity& worker, const absl::Status& why) {
  spdlog::warn("worker {} on {} was evicted: {}", worker.pid, worker.host,
               std::string(why.message()));
  const bool may_return = absl::IsUnavailable(why) || absl::IsDeadlineExceeded(why);
  absl::MutexLock lock(&mutex_);
  if (killer_ == nullptr) return;
  const absl::Time when = may_return ? SteadyNow() + kTimeToReturn : SteadyNow();
  killer_->KillAt(worker.supervised_as, when);
}

void LocalWorkers::OnJoined(const WorkerIdentity& worker) {
  absl::MutexLock lock(&mutex_);
  if (killer_ == nullptr) return;
  killer_->KillAt(worker.supervised_as, absl::InfiniteFuture());
}

void LocalWorkers::OnSnapshot(const ClusterSnapshot& snapshot) {
  if (config_.transport != "mpi" || !has_served_) return;
  if (!job_watch_.IsBroken(snapshot, SteadyNow())) return;
  job_watch_.Restarted();
  spdlog::warn("the MPI job has lost ranks that cannot be replaced; starting it again");
  supervisor_->Signal(0, SIGTERM);
}

void LocalWorkers::StopRestarting() {
  if (supervisor_ != nullptr) supervisor_->StopRestarting();
}

void LocalWorkers::Stop(absl::Duration grace) {
  for (auto& worker : workers_) worker->Stop();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
  workers_.clear();
  if (supervisor_ == nullptr) return;
  supervisor_->Stop(grace);
  absl::MutexLock lock(&mutex_);
  killer_ = nullptr;
}

}  // namespace shoal
