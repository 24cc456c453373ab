// SPDX-License-Identifier: Apache-2.0
// What arrives from one peer, on its way from gRPC's buffers into a lane of the inbox. A message
// for which there is no free slot yet, or that is of an epoch we have not entered, waits here, and
// nothing more is read from the stream until it is delivered: HTTP/2's flow control then holds the
// sender back.
#pragma once

#include <optional>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "comm/grpc/link_events.h"
#include "comm/lane.h"
#include "grpcpp/support/byte_buffer.h"

namespace shoal {

class IncomingLink {
 public:
  // Where the messages come from; asked for the next one when there is room again.
  class Source {
   public:
    virtual ~Source() = default;
    virtual void ReadNext() = 0;
    virtual void End(const absl::Status& why) = 0;
  };

  // `lane` is the one the inbox reads from.
  IncomingLink(RankId peer, Lane lane) : peer_(peer), lane_(lane), writer_(std::move(lane)) {}

  const Lane& lane() const { return lane_; }
  // `source` outlives the link or calls Lost before it ends.
  void Open(Source& source);
  // From now on failures are told to `events`, at once if there was one already.
  void Attach(LinkEvents& events);
  // Nothing more is delivered or told; the source is ended.
  void Close();

  // From the source: takes one message. Whether it should read the next.
  bool Arrive(grpc::ByteBuffer& message);
  // From the source: it has ended, and is not called any more.
  void Lost(const absl::Status& why);
  // From the engine: slots were given back, or an epoch was installed.
  void RoomMade();

 private:
  enum class Outcome { kTaken, kLater, kCorrupt };
  Outcome Deliver(const grpc::ByteBuffer& message) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Fail(const absl::Status& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const RankId peer_;
  const Lane lane_;
  absl::Mutex mutex_;
  LaneWriter writer_ ABSL_GUARDED_BY(mutex_);
  Source* source_ ABSL_GUARDED_BY(mutex_) = nullptr;
  LinkEvents* events_ ABSL_GUARDED_BY(mutex_) = nullptr;
  std::optional<grpc::ByteBuffer> waiting_ ABSL_GUARDED_BY(mutex_);
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace shoal
