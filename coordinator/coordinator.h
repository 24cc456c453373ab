// SPDX-License-Identifier: Apache-2.0
// The coordinator put together: one thread owns the core and feeds it events from the API, the
// workers and the clock; what the core asks for goes to the workers' link and to the API.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "coordinator/api/cluster_port.h"
#include "coordinator/core/core.h"
#include "coordinator/link/worker_link.h"
#include "engine/base/steady_clock.h"

namespace shoal {

struct CoordinatorOptions {
  CoreConfig core;
  WorkerLinkOptions link;
  absl::Duration tick = absl::Milliseconds(50);
  size_t max_queued_events = 16384;  // waiting for the core; new requests are refused at half of it
};

class Coordinator final : public ClusterPort {
 public:
  // Listens for workers; what they say waits until Start. Errors: those of WorkerLink::Start.
  static absl::StatusOr<std::unique_ptr<Coordinator>> Create(CoordinatorOptions options);
  ~Coordinator() override;  // Stop(now)

  // Starts the core's thread. `sink` gets all emissions until Stop returns. Once.
  void Start(EmissionSink& sink);

  bool Post(Event event) override;
  ClusterSnapshot Snapshot() override;
  std::string cluster_address() const { return link_->address(); }

  // Waits until all ranks are ready. False at `deadline` or after Stop.
  bool WaitUntilServing(absl::Time deadline);
  // Refuses new requests and waits until nothing runs any more. False at `deadline`.
  bool Drain(absl::Time deadline);
  // Ends the core's thread and sends the workers away, at `deadline` by force. Not from the core's
  // or a link's thread.
  void Stop(absl::Time deadline);

 private:
  explicit Coordinator(CoordinatorOptions options);
  void Run(EmissionSink& sink);
  void Execute(Command command, EmissionSink& sink);

  const CoordinatorOptions options_;
  std::unique_ptr<Core> core_;  // the core's thread's own
  std::unique_ptr<WorkerLink> link_;

  absl::Mutex mutex_;
  SteadyCondVar changed_;  // what mutex_ guards
  std::vector<Event> queue_ ABSL_GUARDED_BY(mutex_);
  ClusterSnapshot snapshot_ ABSL_GUARDED_BY(mutex_);
  bool drained_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace shoal
