// SPDX-License-Identifier: Apache-2.0
// This machine, for a worker that a supervisor started: its hello shows what the supervisor calls
// it, so that one that hangs can be ended and no other process in its stead.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "worker/worker_environment.h"

namespace shoal {

class SupervisedEnvironment final : public WorkerEnvironment {
 public:
  explicit SupervisedEnvironment(std::string supervised_as);

  absl::StatusOr<std::unique_ptr<CoordinatorLink>> Dial(CoordinatorLinkOptions options,
                                                        const proto::Hello& hello) override;
  // All else is the machine's.
  absl::Time Now() override;
  void SleepUntil(absl::Time until, absl::Mutex& mutex, const bool& stop) override;
  std::unique_ptr<BackgroundWork> RunInBackground(std::function<void()> work,
                                                  int niceness) override;
  absl::StatusOr<std::unique_ptr<Fabric>> CreateFabric(const FabricOptions& options) override;
  absl::StatusOr<std::unique_ptr<Model>> LoadModel(const std::string& directory,
                                                   const ModelConfig& config,
                                                   const ExpertPlacement& placement,
                                                   const ModelOptions& options, Kernels& kernels,
                                                   Exchange& exchange) override;

 private:
  const std::string supervised_as_;
  WorkerEnvironment& machine_;
};

}  // namespace shoal
