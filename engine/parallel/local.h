// SPDX-License-Identifier: Apache-2.0
// A world of one: what is dispatched to oneself comes back, through one buffer per phase.
#pragma once

#include <array>
#include <vector>

#include "engine/parallel/exchange.h"

namespace shoal {

class LocalExchange final : public Exchange {
 public:
  explicit LocalExchange(size_t max_message_bytes);

  RankId rank() const override { return RankId(0); }
  int world_size() const override { return 1; }
  size_t max_message_bytes() const override { return max_message_bytes_; }
  absl::Span<std::byte> SendBuffer(const ExchangeTag& tag, RankId peer,
                                   absl::Time deadline) override;
  absl::Status Post(const ExchangeTag& tag, absl::Span<const size_t> bytes) override;
  absl::Status Wait(const ExchangeTag& tag, absl::Time deadline,
                    absl::Span<absl::Span<const std::byte>> received) override;
  void Release(const ExchangeTag&) override {}
  absl::Status InstallEpoch(Epoch) override { return absl::OkStatus(); }
  void Cancel() override {}

 private:
  struct alignas(64) Line {
    std::byte bytes[64];
  };
  struct Buffer {
    std::vector<Line> lines;  // max_message_bytes, rounded up
    size_t size = 0;
    std::byte* data() { return reinterpret_cast<std::byte*>(lines.data()); }
  };
  size_t max_message_bytes_;
  std::array<Buffer, 2> buffers_;  // by phase
};

}  // namespace shoal
