// SPDX-License-Identifier: Apache-2.0
#include "comm/grpc/row_service.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "comm/grpc/row_receiver.h"
#include "comm/grpc/row_sender.h"

namespace shoal {
namespace {

constexpr int kMaxRank = 4096;  // bounds how many callers can wait

absl::Status TooOld(Epoch theirs, Epoch ours) {
  return absl::AbortedError(absl::StrCat("epoch ", theirs.value(),
                                         " has passed: this rank connects epoch ", ours.value()));
}

}  // namespace

grpc::ServerGenericBidiReactor* RowService::CreateReactor(
    grpc::GenericCallbackServerContext* context) {
  if (context->method() != kRowMethod) return CallbackGenericService::CreateReactor(context);
  return new RowReceiver(*this);
}

void RowService::StartEpoch(Epoch epoch) {
  absl::MutexLock lock(&mutex_);
  epoch_ = epoch;
  for (auto caller = waiting_.begin(); caller != waiting_.end();) {
    const Epoch theirs = caller->second.hello.epoch;
    if (theirs < epoch) caller->second.receiver->Refuse(TooOld(theirs, epoch));
    caller = theirs < epoch ? waiting_.erase(caller) : std::next(caller);
  }
}

std::optional<Hello> RowService::Waiting(RankId peer) {
  absl::MutexLock lock(&mutex_);
  const auto caller = waiting_.find(peer);
  if (caller == waiting_.end()) return std::nullopt;
  return caller->second.hello;
}

bool RowService::Welcome(RankId peer, std::shared_ptr<IncomingLink> link, const Hello& mine) {
  absl::MutexLock lock(&mutex_);
  const auto caller = waiting_.find(peer);
  if (caller == waiting_.end()) return false;
  caller->second.receiver->Welcome(std::move(link), mine);
  waiting_.erase(caller);
  return true;
}

void RowService::Refuse(RankId peer, const absl::Status& why) {
  absl::MutexLock lock(&mutex_);
  const auto caller = waiting_.find(peer);
  if (caller == waiting_.end()) return;
  caller->second.receiver->Refuse(why);
  waiting_.erase(caller);
}

void RowService::Arrived(RowReceiver& receiver, Hello hello) {
  absl::MutexLock lock(&mutex_);
  const RankId rank = hello.rank;
  if (rank.value() < 0 || rank.value() >= kMaxRank) {
    receiver.Refuse(absl::FailedPreconditionError(absl::StrCat("rank ", rank.value())));
  } else if (hello.epoch < epoch_) {
    receiver.Refuse(TooOld(hello.epoch, epoch_));
  } else if (const auto other = waiting_.find(rank); other == waiting_.end()) {
    waiting_.emplace(rank, Caller{&receiver, std::move(hello)});
  } else {
    // The latest caller of a rank is the one that counts, unless it is of an older epoch.
    Caller caller{&receiver, std::move(hello)};
    if (caller.hello.epoch >= other->second.hello.epoch) std::swap(caller, other->second);
    caller.receiver->Refuse(absl::AbortedError("another caller took this rank's place"));
  }
  changed_.Ring();
}

void RowService::Ended(RowReceiver& receiver) {
  absl::MutexLock lock(&mutex_);
  std::erase_if(waiting_, [&](const auto& caller) { return caller.second.receiver == &receiver; });
}

}  // namespace shoal
