// SPDX-License-Identifier: Apache-2.0
#include "comm/grpc/row_receiver.h"

#include <utility>

#include "comm/grpc/byte_buffer_text.h"

namespace shoal {

RowReceiver::RowReceiver(RowService& service) : service_(service) { StartRead(&message_); }

void RowReceiver::Welcome(std::shared_ptr<IncomingLink> link, const Hello& mine) {
  link->Open(*this);
  absl::MutexLock lock(&mutex_);
  link_ = std::move(link);
  if (finished_) return;
  reply_ = ToByteBuffer(EncodeHelloReply({.verdict = absl::OkStatus(), .hello = mine}));
  StartWrite(&reply_);
  StartRead(&message_);
}

void RowReceiver::Refuse(const absl::Status& why) {
  absl::MutexLock lock(&mutex_);
  if (std::exchange(finished_, true)) return;
  reply_ = ToByteBuffer(EncodeHelloReply({.verdict = why, .hello = {}}));
  StartWriteAndFinish(&reply_, grpc::WriteOptions(), grpc::Status::OK);
}

void RowReceiver::OnReadDone(bool ok) {
  std::shared_ptr<IncomingLink> link;
  bool greeted;
  {
    absl::MutexLock lock(&mutex_);
    link = link_;
    greeted = std::exchange(greeted_, true);
  }
  if (!ok) {
    Lose(absl::UnavailableError("is gone: its stream ended"));
  } else if (link != nullptr) {
    if (link->Arrive(message_)) ReadNext();
  } else if (!greeted) {
    absl::StatusOr<Hello> hello = ParseHello(ToText(message_, kMaxHelloBytes + 1));
    message_.Clear();
    if (hello.ok()) {
      service_.Arrived(*this, *std::move(hello));
    } else {
      End(hello.status());
    }
  }
}

void RowReceiver::OnCancel() { Lose(absl::UnavailableError("is gone: its stream was cut")); }

// No call of the link comes after Lost, so none can reach an object that OnDone has deleted.
void RowReceiver::Lose(const absl::Status& why) {
  std::shared_ptr<IncomingLink> link;
  {
    absl::MutexLock lock(&mutex_);
    link = link_;
  }
  if (link != nullptr) link->Lost(why);
  End(absl::OkStatus());
}

void RowReceiver::ReadNext() {
  absl::MutexLock lock(&mutex_);
  if (!finished_) StartRead(&message_);
}

void RowReceiver::End(const absl::Status& why) {
  absl::MutexLock lock(&mutex_);
  if (std::exchange(finished_, true)) return;
  Finish(grpc::Status(static_cast<grpc::StatusCode>(why.code()), std::string(why.message())));
}

void RowReceiver::OnDone() {
  service_.Ended(*this);
  Lose(absl::UnavailableError("is gone: its stream ended"));
  delete this;
}

}  // namespace shoal
