// SPDX-License-Identifier: Apache-2.0
#include "deploy/shoal/supervised_environment.h"

#include <utility>

#include "proto/cluster.pb.h"

namespace shoal {

SupervisedEnvironment::SupervisedEnvironment(std::string supervised_as)
    : supervised_as_(std::move(supervised_as)), machine_(System()) {}

absl::StatusOr<std::unique_ptr<CoordinatorLink>> SupervisedEnvironment::Dial(
    CoordinatorLinkOptions options, const proto::Hello& hello) {
  proto::Hello shown = hello;
  shown.set_supervised_as(supervised_as_);
  return machine_.Dial(std::move(options), shown);
}

absl::Time SupervisedEnvironment::Now() { return machine_.Now(); }

void SupervisedEnvironment::SleepUntil(absl::Time until, absl::Mutex& mutex, const bool& stop) {
  machine_.SleepUntil(until, mutex, stop);
}

std::unique_ptr<BackgroundWork> SupervisedEnvironment::RunInBackground(std::function<void()> work,
                                                                       int niceness) {
  return machine_.RunInBackground(std::move(work), niceness);
}

absl::StatusOr<std::unique_ptr<Fabric>> SupervisedEnvironment::CreateFabric(
    const FabricOptions& options) {
  return machine_.CreateFabric(options);
}

absl::StatusOr<std::unique_ptr<Model>> SupervisedEnvironment::LoadModel(
    const std::string& directory, const ModelConfig& config, const ExpertPlacement& placement,
    const ModelOptions& options, Kernels& kernels, Exchange& exchange) {
  return machine_.LoadModel(directory, config, placement, options, kernels, exchange);
}

}  // namespace shoal
