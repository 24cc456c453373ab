// SPDX-License-Identifier: Apache-2.0
#include "worker/timed_exchange.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace shoal {
namespace {

absl::Status NotConnected(const ExchangeTag& tag) {
  return absl::UnavailableError(absl::StrCat(tag.ToString(), ": not connected to any peer"));
}

}  // namespace

TimedExchange::TimedExchange(RankId rank, int world_size, size_t max_message_bytes,
                             std::function<absl::Time()> now)
    : rank_(rank),
      world_size_(world_size),
      max_message_bytes_(max_message_bytes),
      now_(std::move(now)) {
  for (std::vector<absl::Duration>& by_source : waited_for_) by_source.resize(world_size);
}

void TimedExchange::ResetWaited() {
  waited_ = absl::ZeroDuration();
  for (std::vector<absl::Duration>& by_source : waited_for_) {
    std::fill(by_source.begin(), by_source.end(), absl::ZeroDuration());
  }
}

absl::Span<std::byte> TimedExchange::SendBuffer(const ExchangeTag& tag, RankId peer,
                                                absl::Time deadline) {
  if (exchange_ == nullptr) return {};
  return exchange_->SendBuffer(tag, peer, deadline);
}

absl::Status TimedExchange::Post(const ExchangeTag& tag, absl::Span<const size_t> bytes) {
  return exchange_ == nullptr ? NotConnected(tag) : exchange_->Post(tag, bytes);
}

absl::Status TimedExchange::Wait(const ExchangeTag& tag, absl::Time deadline,
                                 absl::Span<absl::Span<const std::byte>> received) {
  if (exchange_ == nullptr) return NotConnected(tag);
  const absl::Time begin = now_();
  absl::Status status = exchange_->Wait(tag, deadline, received);
  waited_ += std::max(now_() - begin, absl::ZeroDuration());
  std::vector<absl::Duration>& by_source = waited_for_[static_cast<int>(tag.phase)];
  const absl::Span<const absl::Duration> waits = exchange_->Waited();
  for (size_t source = 0; source < waits.size(); ++source) by_source[source] += waits[source];
  return status;
}

absl::Span<const absl::Duration> TimedExchange::Waited() const {
  if (exchange_ == nullptr) return {};
  return exchange_->Waited();
}

void TimedExchange::Release(const ExchangeTag& tag) {
  if (exchange_ != nullptr) exchange_->Release(tag);
}

absl::Status TimedExchange::InstallEpoch(Epoch epoch) {
  if (exchange_ != nullptr) return exchange_->InstallEpoch(epoch);
  return absl::FailedPreconditionError(
      absl::StrCat("epoch ", epoch.value(), ": not connected to any peer"));
}

void TimedExchange::Cancel() {
  if (exchange_ != nullptr) exchange_->Cancel();
}

}  // namespace shoal
