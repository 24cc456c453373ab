// SPDX-License-Identifier: Apache-2.0
// A coordinator with its API: what `serve` and `coordinator` have in common.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/api/api_server.h"
#include "coordinator/coordinator.h"
#include "deploy/shoal/config.h"
#include "deploy/shoal/served_model.h"
#include "deploy/shoal/stop_signal.h"

namespace shoal {

// Observers of the workers, called from other threads; must only enqueue. May be null.
struct HeadObservers {
  std::function<void(const WorkerIdentity&, const absl::Status&)> on_failure;
  std::function<void(const WorkerIdentity&, const absl::Status&)> on_evicted;
};

class Head {
 public:
  // What can be known to be wrong before a model is looked at: files of the API. NotFound or
  // InvalidArgument, naming the file.
  static absl::Status CheckFiles(const ShoalConfig& config);
  // Listens for workers and for clients (who get 503 for now). `model` outlives the head.
  static absl::StatusOr<std::unique_ptr<Head>> Create(const ShoalConfig& config,
                                                      const ServedModel& model,
                                                      HeadObservers observers);
  ~Head();  // Stop(now)

  std::string cluster_address() const { return coordinator_->cluster_address(); }
  // Waits until the cluster serves, showing how loading goes, prints "listening on ...", calls
  // `serving`, then waits for the end and drains. Errors: what was given to `stop`.
  absl::Status Run(StopSignal& stop, const std::function<void()>& serving);
  // Ends API, core and links, at `deadline` by force.
  void Stop(absl::Time deadline);

 private:
  class LoadProgress;
  Head(const ShoalConfig& config, const ServedModel& model);
  absl::StatusOr<bool> WaitUntilServing(StopSignal& stop);

  const ShoalConfig config_;
  const ServedModel& model_;
  std::unique_ptr<LoadProgress> progress_;
  std::unique_ptr<Coordinator> coordinator_;
  std::unique_ptr<ApiServer> api_;
};

}  // namespace shoal
