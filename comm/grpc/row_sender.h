// SPDX-License-Identifier: Apache-2.0
// The client's end of a stream of rows: what we send to one peer. Its first message is our hello;
// the peer's answer, the only message it sends, is a welcome or a refusal. Then messages follow in
// the order of Publish, each written when gRPC has reported the one before as done (a second write
// in flight would abort the process).
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "comm/grpc/link_events.h"
#include "comm/grpc/send_slots.h"
#include "comm/hello.h"
#include "comm/outlet.h"
#include "engine/base/steady_clock.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/support/byte_buffer.h"

namespace shoal {

inline constexpr char kRowMethod[] = "/shoal.exchange.Rows/Send";

class RowSender final : public Outlet,
                        private grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  // Dials at once. `changed` is rung when State changes.
  RowSender(RankId self, RankId peer, std::shared_ptr<grpc::Channel> channel,
            std::shared_ptr<SendSlots> slots, const Hello& hello, Doorbell& changed);
  // Cancels the stream and waits until gRPC has let go of this object.
  ~RowSender() override;

  // nullopt while dialling; OK once welcome; the peer's refusal, or Unavailable when the stream has
  // ended.
  std::optional<absl::Status> State() const;
  // From now on an end of the stream is told to `events`, at once if it has ended already.
  void Attach(LinkEvents& events);
  // Waits for the peer to acknowledge Close.
  void AwaitEnd(absl::Time deadline);

  void InstallEpoch(Epoch epoch) override;
  // Also detaches from the events: an end is expected now.
  void Close() override;
  bool CanWrite(ExchangePhase phase) const override { return slots_->Free(phase); }
  absl::Span<std::byte> Rows(ExchangePhase phase) const override { return slots_->Rows(phase); }
  void Publish(const MessageHeader& header) override;
  // The stream does not tell; the peer's own messages do.
  Epoch reader_epoch() const override { return epoch_; }
  bool reader_closed() const override { return false; }
  size_t outstanding_bytes(ExchangePhase phase) const override {
    return slots_->outstanding_bytes(phase);
  }
  Doorbell& bell() const override { return slots_->bell(); }

 private:
  // Every slot may be queued, the hello before them and the bye behind.
  static constexpr size_t kQueue = kPhases * kLaneSlots + 2;

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;
  void Enqueue(grpc::ByteBuffer message) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WriteNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const RankId self_;
  const RankId peer_;
  const std::shared_ptr<SendSlots> slots_;  // shared with slices that gRPC still holds
  Epoch epoch_;                             // the engine's thread only
  Doorbell& changed_;
  grpc::GenericStub stub_;
  grpc::ClientContext context_;
  grpc::ByteBuffer reply_bytes_;

  mutable absl::Mutex mutex_;
  SteadyCondVar ended_;  // done_
  std::array<grpc::ByteBuffer, kQueue> queue_
      ABSL_GUARDED_BY(mutex_);  // ring; the head is being written
  size_t head_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t queued_ ABSL_GUARDED_BY(mutex_) = 0;
  bool closing_ ABSL_GUARDED_BY(mutex_) = false;  // after the queue: half-close
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;   // nothing more can be written
  bool done_ ABSL_GUARDED_BY(mutex_) = false;     // gRPC has let go
  std::optional<absl::Status> state_ ABSL_GUARDED_BY(mutex_);
  absl::Status end_ ABSL_GUARDED_BY(mutex_);  // why, once done_
  LinkEvents* events_ ABSL_GUARDED_BY(mutex_) = nullptr;
};

}  // namespace shoal
