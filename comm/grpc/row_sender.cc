// SPDX-License-Identifier: Apache-2.0
#include "comm/grpc/row_sender.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "comm/grpc/byte_buffer_text.h"
#include "engine/base/check.h"

namespace shoal {

RowSender::RowSender(RankId self, RankId peer, std::shared_ptr<grpc::Channel> channel,
                     std::shared_ptr<SendSlots> slots, const Hello& hello, Doorbell& changed)
    : self_(self),
      peer_(peer),
      slots_(std::move(slots)),
      changed_(changed),
      stub_(std::move(channel)) {
  stub_.PrepareBidiStreamingCall(&context_, kRowMethod, grpc::StubOptions(), this);
  StartRead(&reply_bytes_);
  StartCall();
  absl::MutexLock lock(&mutex_);
  Enqueue(ToByteBuffer(EncodeHello(hello)));
}

RowSender::~RowSender() {
  context_.TryCancel();
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(&done_));
}

std::optional<absl::Status> RowSender::State() const {
  absl::MutexLock lock(&mutex_);
  return state_;
}

void RowSender::Attach(LinkEvents& events) {
  absl::MutexLock lock(&mutex_);
  events_ = &events;
  if (done_) events_->LinkLost(peer_, end_);
}

void RowSender::AwaitEnd(absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  ended_.WaitUntil(mutex_, deadline, [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return done_; });
}

void RowSender::InstallEpoch(Epoch epoch) {
  epoch_ = epoch;
  absl::MutexLock lock(&mutex_);
  // What is queued but not begun belongs to the past; its slots become free with the buffers.
  while (queued_ > 1) {
    queue_[(head_ + queued_ - 1) % kQueue].Clear();
    --queued_;
  }
}

void RowSender::Close() {
  absl::MutexLock lock(&mutex_);
  events_ = nullptr;
  if (closing_) return;
  MessageHeader header;
  header.kind = MessageKind::kBye;
  header.tag.epoch = epoch_;
  header.source = self_;
  std::array<std::byte, kMessageHeaderBytes> bye;
  WriteMessageHeader(header, absl::MakeSpan(bye));
  Enqueue(ToByteBuffer({reinterpret_cast<const char*>(bye.data()), bye.size()}));
  closing_ = true;
}

void RowSender::Publish(const MessageHeader& header) {
  grpc::ByteBuffer message = slots_->Take(header);
  absl::MutexLock lock(&mutex_);
  Enqueue(std::move(message));
}

void RowSender::Enqueue(grpc::ByteBuffer message) {
  if (broken_ || closing_) return;  // whoever waits for the peer learns it from the events
  SHOAL_CHECK(queued_ < kQueue);    // slots bound what can be queued
  queue_[(head_ + queued_++) % kQueue] = std::move(message);
  if (queued_ == 1) WriteNext();
}

void RowSender::WriteNext() {
  if (queued_ > 0) {
    StartWrite(&queue_[head_]);
  } else if (closing_) {
    StartWritesDone();
    broken_ = true;
  }
}

// A write may be started from outside gRPC's calls only while the stream cannot end meanwhile: the
// read that is always outstanding sees to that, for gRPC reports its end (below, under the mutex)
// before the stream's.
void RowSender::OnReadDone(bool ok) {
  absl::MutexLock lock(&mutex_);
  if (!ok) {
    broken_ = true;
    return;
  }
  if (!state_.has_value()) {
    const absl::StatusOr<HelloReply> reply =
        ParseHelloReply(ToText(reply_bytes_, kMaxHelloBytes + 1));
    state_ = reply.ok() ? reply->verdict : reply.status();
    changed_.Ring();
  }
  StartRead(&reply_bytes_);  // nothing more is expected but the end
}

void RowSender::OnWriteDone(bool ok) {
  absl::MutexLock lock(&mutex_);
  queue_[head_].Clear();
  head_ = (head_ + 1) % kQueue;
  --queued_;
  if (!ok) broken_ = true;
  if (!broken_) {
    WriteNext();
    return;
  }
  for (; queued_ > 0; --queued_, head_ = (head_ + 1) % kQueue) queue_[head_].Clear();
}

void RowSender::OnDone(const grpc::Status& status) {
  absl::MutexLock lock(&mutex_);
  broken_ = true;
  for (grpc::ByteBuffer& message : queue_) message.Clear();
  end_ = absl::UnavailableError(
      absl::StrCat("is gone: ", status.ok() ? "it ended its stream" : status.error_message()));
  if (!state_.has_value()) state_ = absl::UnavailableError(status.error_message());
  if (events_ != nullptr) events_->LinkLost(peer_, end_);
  changed_.Ring();
  done_ = true;  // the destructor may run as soon as the mutex is free
  ended_.NotifyAll();
}

}  // namespace shoal
