// SPDX-License-Identifier: Apache-2.0
// Pooled buffers from which messages to one peer are sent without a copy of ours: header and rows
// lie together in a slot, and gRPC is given a slice over them. A slot is free again when gRPC has
// let go of the slice, which may be after the write was reported done, or after the stream has
// failed; until then the memory stays, whoever else is gone.
#pragma once

#include <array>
#include <atomic>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "comm/doorbell.h"
#include "comm/lane.h"
#include "comm/message_header.h"
#include "engine/parallel/exchange.h"
#include "grpcpp/support/byte_buffer.h"

namespace shoal {

class SendSlots : public std::enable_shared_from_this<SendSlots> {
 public:
  // Errors: those of Lane::Allocate.
  static absl::StatusOr<std::shared_ptr<SendSlots>> Make(size_t max_message_bytes);

  // Whether the next slot of `phase` is free; its rows.
  bool Free(ExchangePhase phase) const;
  absl::Span<std::byte> Rows(ExchangePhase phase) const;
  // Completes the next slot of the header's phase with `header` and takes it. Only when Free.
  grpc::ByteBuffer Take(const MessageHeader& header);

  // Bytes of `phase` that gRPC has not let go of.
  size_t outstanding_bytes(ExchangePhase phase) const;
  Doorbell& bell() { return bell_; }  // rung when a slot becomes free

 private:
  struct Slot {
    std::atomic<bool> busy{false};
    std::atomic<size_t> length{0};
    std::shared_ptr<SendSlots> owner;  // while busy: gRPC's slice keeps the pool alive
  };

  explicit SendSlots(Lane memory) : memory_(std::move(memory)) {}
  static void LetGo(void* slot);  // gRPC's call when a slice has ended; any thread

  Lane memory_;  // used for its slots only
  std::array<std::array<Slot, kLaneSlots>, kPhases> slots_;
  std::array<uint64_t, kPhases> taken_{};
  Doorbell bell_;
};

}  // namespace shoal
