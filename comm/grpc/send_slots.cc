// SPDX-License-Identifier: Apache-2.0
#include "comm/grpc/send_slots.h"

#include <utility>

#include "absl/memory/memory.h"
#include "engine/base/status_macros.h"
#include "grpcpp/support/slice.h"

namespace shoal {

absl::StatusOr<std::shared_ptr<SendSlots>> SendSlots::Make(size_t max_message_bytes) {
  SHOAL_ASSIGN_OR_RETURN(Lane memory, Lane::Allocate(max_message_bytes));
  return std::shared_ptr<SendSlots>(new SendSlots(std::move(memory)));
}

bool SendSlots::Free(ExchangePhase phase) const {
  const int p = static_cast<int>(phase);
  return !slots_[p][taken_[p] % kLaneSlots].busy.load(std::memory_order_acquire);
}

absl::Span<std::byte> SendSlots::Rows(ExchangePhase phase) const {
  return memory_.Slot(phase, taken_[static_cast<int>(phase)]).subspan(kMessageHeaderBytes);
}

grpc::ByteBuffer SendSlots::Take(const MessageHeader& header) {
  const int p = static_cast<int>(header.tag.phase);
  const uint64_t count = taken_[p]++;
  Slot& slot = slots_[p][count % kLaneSlots];
  const absl::Span<std::byte> bytes = memory_.Slot(header.tag.phase, count);
  WriteMessageHeader(header, bytes);
  slot.length.store(header.length, std::memory_order_relaxed);
  slot.owner = shared_from_this();
  slot.busy.store(true, std::memory_order_relaxed);
  // Not a static slice: its "done" is only that the bytes passed flow control, and they are read
  // later than that.
  const grpc::Slice slice(bytes.data(), kMessageHeaderBytes + header.length, &SendSlots::LetGo,
                          &slot);
  return grpc::ByteBuffer(&slice, 1);
}

void SendSlots::LetGo(void* slot_pointer) {
  Slot& slot = *static_cast<Slot*>(slot_pointer);
  const std::shared_ptr<SendSlots> owner =
      std::move(slot.owner);  // the pool may end with this call
  slot.busy.store(false, std::memory_order_release);
  owner->bell_.Ring();
}

size_t SendSlots::outstanding_bytes(ExchangePhase phase) const {
  size_t bytes = 0;
  for (const Slot& slot : slots_[static_cast<int>(phase)]) {
    if (slot.busy.load(std::memory_order_acquire))
      bytes += slot.length.load(std::memory_order_relaxed);
  }
  return bytes;
}

}  // namespace shoal
