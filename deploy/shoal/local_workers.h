// SPDX-License-Identifier: Apache-2.0
// The workers of a local cluster: child processes under a supervisor, ranks under one mpirun, or
// threads. A process that dies is started again. Of an MPI job the others go on; a new process
// cannot take the dead one's place, so the whole job is started again when it must (job_watch.h).
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "coordinator/core/core.h"
#include "coordinator/link/worker_link.h"
#include "deploy/shoal/config.h"
#include "deploy/shoal/job_watch.h"
#include "deploy/shoal/repeats.h"
#include "deploy/shoal/served_model.h"
#include "deploy/shoal/stop_signal.h"
#include "deploy/shoal/supervisor.h"
#include "worker/worker.h"

namespace shoal {

class LocalWorkers {
 public:
  // `config` as resolved for all: threads and cache_blocks are set. `stop` is told when the cluster
  // cannot come up.
  LocalWorkers(const ShoalConfig& config, const ServedModel& model, StopSignal& stop);
  ~LocalWorkers();  // Stop(0)

  // Starts them all; they dial `coordinator`.
  absl::Status Start(const std::string& coordinator);
  // From now on a death is no reason to give up.
  void ClusterHasServed() { has_served_ = true; }

  // Observers of the link, from its threads.
  void OnFailure(const WorkerIdentity& worker, const absl::Status& why);
  // Who is silent may come back by itself, with its weights, and is given some time for it.
  void OnEvicted(const WorkerIdentity& worker, const absl::Status& why);
  void OnJoined(const WorkerIdentity& worker);
  // Every second or so, in one thread.
  void OnSnapshot(const ClusterSnapshot& snapshot);

  void StopRestarting();
  // Returns when all are gone, by force when `grace` has passed (threads: when they are done).
  void Stop(absl::Duration grace);

 private:
  bool RestartAfter(const ChildExit& exit);
  void LogRestart(const ChildExit& exit, bool crashed);
  std::vector<std::string> WorkerCommand(const std::string& coordinator) const;
  void StartThreads(const std::string& coordinator);

  const ShoalConfig config_;
  const ServedModel& model_;
  StopSignal& stop_;
  std::atomic<bool> has_served_ = false;
  int early_crashes_ = 0;  // the supervisor's thread's own
  JobWatch job_watch_;     // transport mpi
  Repeats repeats_;
  std::unique_ptr<Supervisor> supervisor_;
  absl::Mutex mutex_;
  Supervisor* killer_ ABSL_GUARDED_BY(mutex_) = nullptr;  // supervisor_, once it runs; not for mpi
  std::vector<std::unique_ptr<Worker>> workers_;          // transport inprocess
  std::vector<std::thread> threads_;
};

}  // namespace shoal
