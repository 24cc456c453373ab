// SPDX-License-Identifier: Apache-2.0
// The Exchange of a faulty fabric: another one, and a script.
#pragma once

#include <atomic>
#include <vector>

#include "comm/faulty/faulty_fabric.h"

namespace shoal {

class FaultyExchange final : public Exchange {
 public:
  // Both outlive the object.
  FaultyExchange(Exchange& inner, const FaultScript& script)
      : inner_(inner), script_(script), cut_(inner.world_size()) {}

  RankId rank() const override { return inner_.rank(); }
  int world_size() const override { return inner_.world_size(); }
  size_t max_message_bytes() const override { return inner_.max_message_bytes(); }
  bool Present(RankId peer) const override { return inner_.Present(peer); }
  absl::Span<std::byte> SendBuffer(const ExchangeTag& tag, RankId peer,
                                   absl::Time deadline) override {
    return inner_.SendBuffer(tag, peer, deadline);
  }
  absl::Status Post(const ExchangeTag& tag, absl::Span<const size_t> bytes) override;
  absl::Status Wait(const ExchangeTag& tag, absl::Time deadline,
                    absl::Span<absl::Span<const std::byte>> received) override;
  absl::Span<const absl::Duration> Waited() const override { return inner_.Waited(); }
  void Release(const ExchangeTag& tag) override { inner_.Release(tag); }
  absl::Status InstallEpoch(Epoch epoch) override;
  void Cancel() override;

  // The fabric has connected again: nobody is cut off any more.
  void Reconnected();

 private:
  // A number in [0, 1) that this fault draws for this exchange.
  double Draw(size_t fault, const ExchangeTag& tag) const;
  bool Strikes(size_t fault, Fault::Kind kind, const ExchangeTag& tag) const;
  absl::Status CheckCuts(const ExchangeTag& tag);
  // Sleeps until `end`. False when cancelled meanwhile.
  bool Sleep(absl::Time end) const;

  Exchange& inner_;
  const FaultScript& script_;
  std::vector<bool> cut_;  // by rank
  std::atomic<bool> cancelled_{false};
};

}  // namespace shoal
