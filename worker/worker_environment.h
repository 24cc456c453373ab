// SPDX-License-Identifier: Apache-2.0
// All that a worker needs of the world beside its options: time, threads, the way to its
// coordinator and to its peers, weights. In production the machine; in a simulation a seed. The
// worker itself is the same both times.
#pragma once

#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "comm/fabric.h"
#include "engine/model/model.h"
#include "worker/coordinator_link.h"

namespace shoal {

// Work beside the worker's own. The destructor waits for its end.
class BackgroundWork {
 public:
  virtual ~BackgroundWork() = default;
};

class WorkerEnvironment {
 public:
  virtual ~WorkerEnvironment() = default;

  // This machine. Lives for ever.
  static WorkerEnvironment& System();

  // A clock that never jumps: deadlines are given and compared in its time.
  virtual absl::Time Now() = 0;
  // Sleeps until `until`, or until `stop`, which `mutex` guards, has become true.
  virtual void SleepUntil(absl::Time until, absl::Mutex& mutex, const bool& stop) = 0;
  // Runs `work` with lower priority by `niceness`.
  virtual std::unique_ptr<BackgroundWork> RunInBackground(std::function<void()> work,
                                                          int niceness) = 0;

  // CoordinatorLink::Dial, Fabric::Create and Model::Load.
  virtual absl::StatusOr<std::unique_ptr<CoordinatorLink>> Dial(CoordinatorLinkOptions options,
                                                                const proto::Hello& hello) = 0;
  virtual absl::StatusOr<std::unique_ptr<Fabric>> CreateFabric(const FabricOptions& options) = 0;
  virtual absl::StatusOr<std::unique_ptr<Model>> LoadModel(const std::string& directory,
                                                           const ModelConfig& config,
                                                           const ExpertPlacement& placement,
                                                           const ModelOptions& options,
                                                           Kernels& kernels,
                                                           Exchange& exchange) = 0;
};

}  // namespace shoal
