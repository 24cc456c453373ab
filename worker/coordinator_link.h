// SPDX-License-Identifier: Apache-2.0
// The worker's end of its stream to the coordinator: one object per connection. Beats by itself
// every 50 ms, reads into a bounded queue, never has two writes in flight. Abstract, so that a
// simulation can stand in for gRPC.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "comm/fabric.h"
#include "engine/base/ids.h"

namespace shoal {

namespace proto {
class CoordinatorMessage;
class Hello;
class WorkerMessage;
}  // namespace proto

struct CoordinatorLinkOptions {
  std::string coordinator;  // HOST:PORT
  TlsFiles tls;
  size_t max_message_bytes = size_t{64} << 20;
  size_t max_queued_messages = 1024;  // received and not yet asked for: beyond, reading pauses
  absl::Duration heartbeat_period = absl::Milliseconds(50);
  // Called from gRPC's thread as soon as work in progress has become pointless: a new assignment
  // has arrived, of the epoch that is given, or the stream has ended or is about to. Must not
  // block. The message itself is also delivered by Receive.
  std::function<void(std::optional<Epoch> assigned)> on_interrupt;
};

class CoordinatorLink {
 public:
  // Opens the stream and says hello. Does not wait: a coordinator that cannot be reached shows in
  // Receive as Unavailable. Errors: NotFound for TLS files.
  static absl::StatusOr<std::unique_ptr<CoordinatorLink>> Dial(CoordinatorLinkOptions options,
                                                               const proto::Hello& hello);
  virtual ~CoordinatorLink() = default;  // ends the stream
  CoordinatorLink(const CoordinatorLink&) = delete;
  CoordinatorLink& operator=(const CoordinatorLink&) = delete;

  // The next message; null when `deadline` passed or Wake was called. When the stream has ended and
  // everything received was delivered: its status, Unavailable "..." if it merely broke.
  virtual absl::StatusOr<std::unique_ptr<proto::CoordinatorMessage>> Receive(
      absl::Time deadline) = 0;
  // Makes the Receive in progress, or else the next one, return null. Any thread.
  virtual void Wake() = 0;

  // A message with an empty step result to fill: one that was sent before, so that its memory is
  // used again.
  virtual std::unique_ptr<proto::WorkerMessage> NewStepDone() = 0;
  // Queues a message; dropped without a word when the stream has ended, which Receive reports. Any
  // thread.
  virtual void Send(std::unique_ptr<proto::WorkerMessage> message) = 0;
  // Sends what is queued and says that nothing more will come, then waits until the stream has
  // ended or `deadline`.
  virtual void Finish(absl::Time deadline) = 0;

 protected:
  CoordinatorLink() = default;
};

}  // namespace shoal
