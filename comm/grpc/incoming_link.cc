// SPDX-License-Identifier: Apache-2.0
#include "comm/grpc/incoming_link.h"

#include <array>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "grpcpp/support/proto_buffer_reader.h"

namespace shoal {
namespace {

// Copies the next out.size() bytes. False when there are fewer.
bool Copy(grpc::ProtoBufferReader& reader, absl::Span<std::byte> out) {
  while (!out.empty()) {
    const void* data = nullptr;
    int size = 0;
    if (!reader.Next(&data, &size)) return false;
    const size_t taken = std::min<size_t>(size, out.size());
    std::memcpy(out.data(), data, taken);
    out.remove_prefix(taken);
    if (taken < static_cast<size_t>(size)) reader.BackUp(size - static_cast<int>(taken));
  }
  return true;
}

}  // namespace

void IncomingLink::Open(Source& source) {
  absl::MutexLock lock(&mutex_);
  source_ = &source;
}

void IncomingLink::Attach(LinkEvents& events) {
  absl::MutexLock lock(&mutex_);
  events_ = &events;
  if (!failure_.ok()) events_->LinkLost(peer_, failure_);
}

void IncomingLink::Close() {
  absl::MutexLock lock(&mutex_);
  closed_ = true;
  events_ = nullptr;
  waiting_.reset();
  if (source_ != nullptr) source_->End(absl::OkStatus());
}

bool IncomingLink::Arrive(grpc::ByteBuffer& message) {
  absl::MutexLock lock(&mutex_);
  if (closed_) return false;
  switch (Deliver(message)) {
    case Outcome::kTaken:
      message.Clear();
      return true;
    case Outcome::kLater:
      waiting_.emplace();
      waiting_->Swap(&message);
      return false;
    case Outcome::kCorrupt:
      source_->End(failure_);
      return false;
  }
  return false;
}

void IncomingLink::Lost(const absl::Status& why) {
  absl::MutexLock lock(&mutex_);
  source_ = nullptr;
  if (!closed_) Fail(why);
}

void IncomingLink::RoomMade() {
  absl::MutexLock lock(&mutex_);
  if (!waiting_.has_value()) return;
  const Outcome outcome = Deliver(*waiting_);
  if (outcome == Outcome::kLater) return;
  waiting_.reset();
  if (source_ == nullptr) return;
  if (outcome == Outcome::kCorrupt) {
    source_->End(failure_);
  } else {
    source_->ReadNext();
  }
}

void IncomingLink::Fail(const absl::Status& why) {
  if (!failure_.ok()) return;
  failure_ = why;
  if (events_ != nullptr) events_->LinkLost(peer_, failure_);
}

IncomingLink::Outcome IncomingLink::Deliver(const grpc::ByteBuffer& message) {
  const auto corrupt = [&](absl::string_view what) {
    Fail(absl::DataLossError(absl::StrCat("sent a corrupt message: ", what)));
    return Outcome::kCorrupt;
  };
  grpc::ByteBuffer shared =
      message;  // the reader wants a mutable one; this only counts a reference
  grpc::ProtoBufferReader reader(&shared);
  std::array<std::byte, kMessageHeaderBytes> bytes;
  const size_t length = std::min(bytes.size(), message.Length());
  if (!reader.status().ok() || !Copy(reader, absl::MakeSpan(bytes).subspan(0, length))) {
    return corrupt("it cannot be read");
  }
  const absl::StatusOr<MessageHeader> header =
      ParseMessageHeader(absl::MakeConstSpan(bytes).subspan(0, length), lane_.max_message_bytes());
  if (!header.ok()) return corrupt(header.status().message());
  if (header->source != peer_) {
    return corrupt(absl::StrCat("message header: source ", header->source.value()));
  }
  if (message.Length() - kMessageHeaderBytes != header->length) {
    return corrupt(absl::StrCat("message header: length ", header->length, ", followed by ",
                                message.Length() - kMessageHeaderBytes, " bytes"));
  }
  if (header->kind == MessageKind::kBye) {
    writer_.Close();
    return Outcome::kTaken;
  }
  // The writer's end of the lane follows the peer's epoch, as it would if the peer wrote to the
  // lane itself.
  const Epoch epoch = header->tag.epoch;
  if (epoch < writer_.reader_epoch()) return Outcome::kTaken;  // of the past: dropped
  if (epoch > writer_.epoch()) writer_.InstallEpoch(epoch);
  if (!writer_.CanWrite(header->tag.phase)) return Outcome::kLater;
  if (!Copy(reader, writer_.Rows(header->tag.phase).subspan(0, header->length))) {
    return corrupt("it ends early");
  }
  writer_.Publish(*header);
  return Outcome::kTaken;
}

}  // namespace shoal
