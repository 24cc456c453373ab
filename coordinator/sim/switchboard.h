// SPDX-License-Identifier: Apache-2.0
// Both ends of the streams between simulated workers and the coordinator: a CoordinatorLink for the
// worker, and for the core what coordinator/link does with gRPC, by the same rules and with the
// same translation. A stream keeps its order and loses nothing while it lives; it may break at any
// moment. Now and then it says a plan of an epoch that is over once more, in the next one.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/core/events.h"
#include "coordinator/sim/network.h"
#include "coordinator/sim/random.h"
#include "coordinator/sim/timeline.h"
#include "worker/coordinator_link.h"

namespace shoal::sim {

class Process;

class Switchboard {
 public:
  // `post` takes what the core is to be told.
  Switchboard(uint64_t seed, Timeline& timeline, Network& network, std::function<void(Event)> post);
  ~Switchboard();

  absl::StatusOr<std::unique_ptr<CoordinatorLink>> Dial(Process& process,
                                                        CoordinatorLinkOptions options,
                                                        const proto::Hello& hello);

  void Execute(const AssignRank& command);
  void Execute(const LoadExperts& command);
  void Execute(const SendPlan& command);
  void Execute(const EvictWorker& command);

  // --- Faults ---

  // Its streams break; what it had sent may still arrive.
  void Died(const Process& process);
  void Cut(const Process& process);
  // All streams break; what they had sent up is not heard.
  void CoordinatorDied();

  // By which process a worker is; null if it is not connected.
  Process* Find(WorkerId worker) const;
  // The latest epoch that its process had been told of when it dialled.
  Epoch AssignedBefore(WorkerId worker) const;

 private:
  struct Stream;
  class Link;

  void SendUp(const std::shared_ptr<Stream>& stream, std::unique_ptr<proto::WorkerMessage> message);
  void SendDown(WorkerId worker, std::shared_ptr<proto::CoordinatorMessage> message);
  void Beat(const std::shared_ptr<Stream>& stream);
  absl::Status OnMessage(const std::shared_ptr<Stream>& stream,
                         const proto::WorkerMessage& message);
  void OnHello(const std::shared_ptr<Stream>& stream, const proto::Hello& hello);
  // The coordinator sees the end of the stream.
  void OnEnd(const std::shared_ptr<Stream>& stream, const std::string& why);
  // The coordinator ends the stream; the worker learns it with `status`.
  void Close(const std::shared_ptr<Stream>& stream, const absl::Status& status);
  void EndAtWorker(const std::shared_ptr<Stream>& stream, const absl::Status& status);
  // The connection breaks under both. `flushes`: what was sent up still arrives.
  void Break(const std::shared_ptr<Stream>& stream, bool flushes);
  absl::Duration DelayUp(const Stream& stream);
  absl::Duration DelayDown(const Stream& stream);

  Random random_;
  Timeline& timeline_;
  Network& network_;
  const std::function<void(Event)> post_;
  std::vector<std::shared_ptr<Stream>> streams_;  // not over at both ends
  std::map<WorkerId, std::shared_ptr<Stream>> joined_;
  WorkerId next_worker_ = WorkerId(1);
};

}  // namespace shoal::sim
