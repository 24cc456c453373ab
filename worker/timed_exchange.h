// SPDX-License-Identifier: Apache-2.0
// An exchange that counts how long its rank waited for others: what tells a slow rank from one that
// waits for it.
#pragma once

#include <cstdint>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/parallel/exchange.h"

namespace shoal {

class TimedExchange final : public Exchange {
 public:
  explicit TimedExchange(Exchange& exchange) : exchange_(exchange) {}

  // Time spent in Wait since the last call. The thread that runs the steps.
  absl::Duration TakeWaiting() {
    const int64_t waited = waiting_ns_;
    waiting_ns_ = 0;
    return absl::Nanoseconds(waited);
  }

  RankId rank() const override { return exchange_.rank(); }
  int world_size() const override { return exchange_.world_size(); }
  size_t max_message_bytes() const override { return exchange_.max_message_bytes(); }
  absl::Span<std::byte> SendBuffer(const ExchangeTag& tag, RankId peer,
                                   absl::Time deadline) override {
    return exchange_.SendBuffer(tag, peer, deadline);
  }
  absl::Status Post(const ExchangeTag& tag, absl::Span<const size_t> bytes) override {
    return exchange_.Post(tag, bytes);
  }
  absl::Status Wait(const ExchangeTag& tag, absl::Time deadline,
                    absl::Span<absl::Span<const std::byte>> received) override {
    const int64_t begin = absl::GetCurrentTimeNanos();
    absl::Status status = exchange_.Wait(tag, deadline, received);
    waiting_ns_ += absl::GetCurrentTimeNanos() - begin;
    return status;
  }
  void Release(const ExchangeTag& tag) override { exchange_.Release(tag); }
  absl::Status InstallEpoch(Epoch epoch) override { return exchange_.InstallEpoch(epoch); }
  void Cancel() override { exchange_.Cancel(); }

 private:
  Exchange& exchange_;
  int64_t waiting_ns_ = 0;
};

}  // namespace shoal
