// SPDX-License-Identifier: Apache-2.0
// What the API needs of the rest of the coordinator, and what the coordinator needs of the API: two queues' ends.
#pragma once

#include <functional>

#include "coordinator/core/core.h"
#include "coordinator/core/events.h"

namespace shoal {

// The coordinator, seen by the API. Thread-safe.
class ClusterPort {
 public:
  virtual ~ClusterPort() = default;
  // Queues an event for the core; events posted by one thread keep their order. False when the bounded queue is full
  // (answer 429) or the coordinator is shutting down.
  virtual bool Post(Event event) = 0;
  // The latest snapshot, at most one Tick old.
  virtual ClusterSnapshot Snapshot() = 0;
};

// The API, seen by the coordinator: called from the core's thread, must only enqueue.
class EmissionSink {
 public:
  virtual ~EmissionSink() = default;
  virtual void OnEmit(Emit emit) = 0;
  virtual void OnReject(Reject reject) = 0;
};

}  // namespace shoal
