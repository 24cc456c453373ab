// SPDX-License-Identifier: Apache-2.0
// One rank of the unit, from the first dial to the last step: says hello, loads its share of the
// experts, connects to its peers at every epoch, runs the steps it is told to, and starts over when
// the coordinator is gone or has given it up. Its weights stay loaded for as long as it keeps its
// rank, through epochs and broken connections: a worker that was only taken for dead is back at
// once.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "comm/fabric.h"
#include "engine/config/expert_placement.h"
#include "engine/config/model_config.h"
#include "engine/device/kernels.h"
#include "engine/model/model.h"
#include "worker/coordinator_link.h"
#include "worker/expert_token_report.h"
#include "worker/step_runner.h"
#include "worker/timed_exchange.h"
#include "worker/worker_environment.h"

namespace shoal {

namespace proto {
class AssignRank;
class CoordinatorMessage;
class Hello;
class LoadExperts;
class StepPlan;
}  // namespace proto

struct WorkerOptions {
  // What it computes.
  std::string model_directory;
  ModelConfig model;
  std::string backend = "cpu";
  int threads = 0;
  bool fp8_activations = false;
  int block_tokens = 64;
  int64_t cache_blocks = 0;
  int max_batch_rows = 512;
  int max_running = 64;
  // Whom it works for, and with. FabricOptions::max_message_bytes is filled in by the worker.
  CoordinatorLinkOptions link;  // without on_interrupt
  FabricOptions fabric;
  std::string build;        // version and build id of this program
  std::string fingerprint;  // of the model directory
  std::string host;         // this machine's name, for people
  // Give up when the coordinator says goodbye, or cannot be reached for `patience`. Otherwise dial
  // for ever.
  bool supervised = false;
  std::string supervised_as;  // what the process that started it calls it
  absl::Duration patience = absl::Seconds(5);
  // Asked before loading, when the rank is known: is there memory for it? May be null.
  std::function<absl::Status(const ExpertPlacement&, RankId)> check_memory;
  // Outlives the worker.
  WorkerEnvironment* environment = &WorkerEnvironment::System();
};

class Worker {
 public:
  explicit Worker(WorkerOptions options);
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // Works until Stop, or until it is of no use any more. Errors: why the coordinator refused this
  // worker for good, why the model does not load, Unavailable if supervised and left alone.
  absl::Status Run();
  // After Run: whether its error is the coordinator's own, or was reported to it.
  bool coordinator_knows() const { return coordinator_knows_; }
  // Any thread. A step in progress is abandoned.
  void Stop();

 private:
  absl::Status OpenFabric();
  void FillHello(proto::Hello& hello) ABSL_LOCKS_EXCLUDED(mutex_);
  // One connection, from hello to its end.
  absl::Status Serve(CoordinatorLink& link);
  absl::Status OnAssign(CoordinatorLink& link, const proto::AssignRank& assign);
  absl::Status OnLoadExperts(CoordinatorLink& link, const proto::LoadExperts& load);
  absl::Status OnLoaded(CoordinatorLink& link);
  void OnPlan(CoordinatorLink& link, const proto::StepPlan& plan);
  void ReportExpertTokens(CoordinatorLink& link);

  // Makes the exchange of this rank. Errors: Unavailable when this worker was another rank before:
  // it leaves that one, and dials anew.
  absl::Status TakeRank(RankId rank, int world_size);
  // Connects to all peers of the epoch. That one cannot be reached is no error of ours, that none ever
  // could be is.
  absl::Status Connect(CoordinatorLink& link, const std::vector<std::string>& endpoints);
  void ReportConnectFailure(CoordinatorLink& link, const absl::Status& why);
  // Sees to it that the experts of `placement` are loaded or being loaded; with the given niceness.
  absl::Status EnsureShare(const ExpertPlacement& placement, int niceness);
  void StartLoading(const ExpertPlacement& placement, int niceness);
  void Load(const ExpertPlacement& placement, RankId rank);
  // Says what has become true: loaded, ready for the epoch.
  absl::Status Report(CoordinatorLink& link);
  // Tells the coordinator why this worker will not do, and returns it as an error that is for good.
  absl::Status Leave(CoordinatorLink& link, const absl::Status& why);
  // The coordinator does not believe our epochs: begins as if new.
  void ForgetEpochs();
  // Forgets rank, weights and peers, so that another rank can be taken.
  void LeaveRank();
  void Interrupt(std::optional<Epoch> assigned) ABSL_LOCKS_EXCLUDED(mutex_);
  bool stopped();
  void SleepUnlessStopped(absl::Duration duration);

  const WorkerOptions options_;
  WorkerEnvironment& environment_;
  uint64_t boot_nonce_;

  // The worker's thread.
  std::unique_ptr<Kernels> kernels_;
  std::unique_ptr<Fabric> fabric_;
  std::unique_ptr<TimedExchange> exchange_;  // of this rank; none: it has no rank
  std::unique_ptr<Model> model_;
  std::unique_ptr<StepRunner> runner_;
  std::optional<ExpertPlacement> share_;      // under which the weights were or are being loaded
  std::optional<ExpertPlacement> told_placement_;  // the full one, by this connection
  std::optional<ExpertPlacement> placement_;       // of epoch_: without its absent ranks
  std::vector<int> host_of_rank_;             // of epoch_; empty: nobody knows
  RankId rank_ = RankId(-1);
  Epoch epoch_;
  int token_limit_ = 0;
  bool connected_ = false;  // to the peers of epoch_
  bool ready_ = false;      // plans of epoch_ may come
  bool moving_ = false;     // to another rank: leave this one when the connection is over
  std::optional<int64_t> owed_serial_;              // of the LoadExperts not answered yet
  ExpertTokenReport expert_tokens_;
  absl::Time report_expert_tokens_at_ = absl::InfiniteFuture();  // there may be news then
  bool was_told_ = false;                           // by this connection, what to be
  bool coordinator_knows_ = false;

  absl::Mutex mutex_;
  Fabric* connecting_ ABSL_GUARDED_BY(mutex_) = nullptr;       // what Interrupt abandons
  Exchange* interruptible_ ABSL_GUARDED_BY(mutex_) = nullptr;  // what Interrupt cancels
  Epoch assigned_ ABSL_GUARDED_BY(mutex_);                     // the last one that arrived
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  CoordinatorLink* link_ ABSL_GUARDED_BY(mutex_) = nullptr;  // of the current connection
  std::optional<absl::StatusOr<std::unique_ptr<Model>>> loaded_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<BackgroundWork> loader_;  // may be over
};

}  // namespace shoal
