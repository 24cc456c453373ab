// SPDX-License-Identifier: Apache-2.0
// The exchange of one rank for as long as its worker lives: what a fabric has connected is attached
// to it and may be replaced, so that a model can be loaded before there are peers, and keeps its
// port when they change. Counts how long its rank waits for others, and for whom: what tells a slow
// rank from one that waits for it.
#pragma once

#include <array>
#include <functional>
#include <vector>

#include "absl/time/time.h"
#include "engine/base/steady_clock.h"
#include "engine/parallel/exchange.h"

namespace shoal {

class TimedExchange final : public Exchange {
 public:
  // What the attached exchanges will be; and what time it is.
  TimedExchange(RankId rank, int world_size, size_t max_message_bytes,
                std::function<absl::Time()> now = SteadyNow);

  // Null: nobody is connected, and every exchange fails with Unavailable. Not during a step.
  void Attach(Exchange* exchange) { exchange_ = exchange; }

  // What was waited since the last Reset.
  absl::Duration waited() const { return waited_; }
  absl::Span<const absl::Duration> waited_for(ExchangePhase phase) const {  // by source rank
    return waited_for_[static_cast<int>(phase)];
  }
  void ResetWaited();

  RankId rank() const override { return rank_; }
  int world_size() const override { return world_size_; }
  size_t max_message_bytes() const override { return max_message_bytes_; }
  bool Present(RankId peer) const override {
    return exchange_ != nullptr ? exchange_->Present(peer) : peer == rank_;
  }
  absl::Span<std::byte> SendBuffer(const ExchangeTag& tag, RankId peer,
                                   absl::Time deadline) override;
  absl::Status Post(const ExchangeTag& tag, absl::Span<const size_t> bytes) override;
  absl::Status Wait(const ExchangeTag& tag, absl::Time deadline,
                    absl::Span<absl::Span<const std::byte>> received) override;
  absl::Span<const absl::Duration> Waited() const override;
  void Release(const ExchangeTag& tag) override;
  absl::Status InstallEpoch(Epoch epoch) override;
  void Cancel() override;

 private:
  const RankId rank_;
  const int world_size_;
  const size_t max_message_bytes_;
  const std::function<absl::Time()> now_;
  Exchange* exchange_ = nullptr;
  absl::Duration waited_;
  std::array<std::vector<absl::Duration>, 2> waited_for_;  // by phase, by source
};

}  // namespace shoal
