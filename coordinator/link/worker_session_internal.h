// SPDX-License-Identifier: Apache-2.0
// One worker's stream: a gRPC reactor that reads one message after the other, writes from a bounded
// queue with never two writes in flight, and reports its end once. Deletes itself when gRPC is done
// with it.
#pragma once

#include <cstddef>
#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "coordinator/link/worker_link.h"
#include "grpcpp/grpcpp.h"
#include "proto/cluster.grpc.pb.h"

namespace shoal {

class WorkerSession final
    : public grpc::ServerBidiReactor<proto::WorkerMessage, proto::CoordinatorMessage> {
 public:
  class Owner {
   public:
    virtual ~Owner() = default;
    // A message arrived (one at a time per session). An error ends the session with it.
    virtual absl::Status OnMessage(WorkerSession& session, const proto::WorkerMessage& message) = 0;
    // Nothing more will be read. Called once, unless the session was closed by Close.
    virtual void OnEnd(WorkerSession& session, const absl::Status& why) = 0;
    // gRPC is done with the session; it is deleted after this call.
    virtual void OnDelete(WorkerSession& session) = 0;
  };

  WorkerSession(Owner& owner, grpc::CallbackServerContext& context, size_t max_outbound,
                absl::Time now);
  void BeginReading() { StartRead(&incoming_); }

  // Queues a message. False when the queue is full or the session is closing.
  bool Send(std::shared_ptr<const proto::CoordinatorMessage> message);
  // Ends the stream with `status`; what is queued is dropped. Later calls do nothing.
  void Close(const absl::Status& status);

  absl::Time opened_at() const { return opened_at_; }

  // The owner's notes, guarded by the owner's mutex.
  std::optional<WorkerIdentity> identity;  // set by a hello that was accepted
  std::string endpoint;
  uint64_t boot_nonce = 0;
  int64_t load_serial = 0;  // of the last LoadExperts that was sent
  std::shared_ptr<const ExpertPlacement> told_placement;  // the last that was sent

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnDone() override;

 private:
  void End(const absl::Status& why);

  Owner& owner_;
  grpc::CallbackServerContext& context_;
  const size_t max_outbound_;
  const absl::Time opened_at_;
  proto::WorkerMessage incoming_;  // owned by the read in flight

  absl::Mutex mutex_;
  std::deque<std::shared_ptr<const proto::CoordinatorMessage>> outbound_
      ABSL_GUARDED_BY(mutex_);  // front: in flight
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::Status close_status_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace shoal
