// SPDX-License-Identifier: Apache-2.0
#include <utility>

#include "coordinator/link/worker_session_internal.h"

namespace shoal {

WorkerSession::WorkerSession(Owner& owner, grpc::CallbackServerContext& context,
                             size_t max_outbound, absl::Time now)
    : owner_(owner), context_(context), max_outbound_(max_outbound), opened_at_(now) {}

bool WorkerSession::Send(std::shared_ptr<const proto::CoordinatorMessage> message) {
  const proto::CoordinatorMessage* first = nullptr;
  {
    absl::MutexLock lock(&mutex_);
    if (closing_ || outbound_.size() >= max_outbound_) return false;
    outbound_.push_back(std::move(message));
    if (outbound_.size() == 1) first = outbound_.front().get();
  }
  // Outside the lock, which no other thread needs for this: a queue that is not empty is a write in
  // flight.
  if (first != nullptr) StartWrite(first);
  return true;
}

void WorkerSession::Close(const absl::Status& status) {
  const grpc::Status finish(static_cast<grpc::StatusCode>(status.code()),
                            std::string(status.message()));
  {
    absl::MutexLock lock(&mutex_);
    if (closing_) return;
    closing_ = true;
    close_status_ = finish;
    if (!outbound_.empty()) {
      // A write is in flight: OnWriteDone finishes. The peer may have stopped reading, so do not
      // wait for it.
      context_.TryCancel();
      return;
    }
  }
  Finish(finish);
}

void WorkerSession::End(const absl::Status& why) {
  {
    absl::MutexLock lock(&mutex_);
    if (closing_) return;  // we ended it ourselves
  }
  owner_.OnEnd(*this, why);
  Close(why);
}

void WorkerSession::OnReadDone(bool ok) {
  if (!ok) {
    End(absl::UnavailableError("connection closed"));
    return;
  }
  const absl::Status status = owner_.OnMessage(*this, incoming_);
  if (!status.ok()) {
    End(status);
    return;
  }
  StartRead(&incoming_);
}

void WorkerSession::OnWriteDone(bool ok) {
  const proto::CoordinatorMessage* next = nullptr;
  std::optional<grpc::Status> finish;
  {
    absl::MutexLock lock(&mutex_);
    outbound_.pop_front();
    if (closing_) {
      outbound_.clear();
      finish = close_status_;
    } else if (!ok) {
      outbound_.clear();  // the stream is broken: the read fails too and reports it
    } else if (!outbound_.empty()) {
      next = outbound_.front().get();
    }
  }
  if (finish.has_value()) Finish(*finish);
  if (next != nullptr) StartWrite(next);
}

void WorkerSession::OnDone() {
  owner_.OnDelete(*this);
  delete this;
}

}  // namespace shoal
