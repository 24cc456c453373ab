// SPDX-License-Identifier: Apache-2.0
#include "comm/mpi/mpi_outlet.h"

#include <algorithm>
#include <utility>

#include "absl/memory/memory.h"
#include "engine/base/status_macros.h"

namespace shoal {

absl::StatusOr<std::unique_ptr<MpiOutlet>> MpiOutlet::Make(MpiRuntime& runtime, int destination,
                                                           int first_tag,
                                                           size_t max_message_bytes) {
  SHOAL_ASSIGN_OR_RETURN(Lane memory, Lane::Allocate(max_message_bytes));
  return absl::WrapUnique(new MpiOutlet(runtime, destination, first_tag, std::move(memory)));
}

MpiOutlet::~MpiOutlet() { Abandon(); }

bool MpiOutlet::Done(const Slot& slot) {
  if (slot.request == MPI_REQUEST_NULL) return true;
  int completed = 0;
  // An error completes the request too; what was lost with it, the receiver's deadline reports.
  if (MPI_Test(&slot.request, &completed, MPI_STATUS_IGNORE) != MPI_SUCCESS) return true;
  return completed != 0;
}

bool MpiOutlet::Abandon() {
  bool any = false;
  for (auto& phase : slots_) {
    for (Slot& slot : phase) {
      if (Done(slot)) continue;
      any = true;
      runtime_.Quarantine(std::exchange(slot.request, MPI_REQUEST_NULL), memory_.memory());
    }
  }
  return any;
}

void MpiOutlet::InstallEpoch(Epoch epoch) {
  epoch_ = epoch;
  if (!std::all_of(slots_.begin(), slots_.end(), [](const auto& phase) {
        return std::all_of(phase.begin(), phase.end(), [](const Slot& slot) { return Done(slot); });
      })) {
    absl::StatusOr<Lane> fresh = Lane::Allocate(memory_.max_message_bytes());
    if (!fresh.ok()) return;  // keep waiting for the old sends: CanWrite stays false
    Abandon();
    memory_ = *std::move(fresh);
  }
  runtime_.SweepQuarantine();
}

bool MpiOutlet::CanWrite(ExchangePhase phase) const {
  const int p = static_cast<int>(phase);
  return Done(slots_[p][published_[p] % kLaneSlots]);
}

absl::Span<std::byte> MpiOutlet::Rows(ExchangePhase phase) const {
  return memory_.Slot(phase, published_[static_cast<int>(phase)]).subspan(kMessageHeaderBytes);
}

void MpiOutlet::Publish(const MessageHeader& header) {
  const int p = static_cast<int>(header.tag.phase);
  const uint64_t count = published_[p]++;
  Slot& slot = slots_[p][count % kLaneSlots];
  const absl::Span<std::byte> bytes = memory_.Slot(header.tag.phase, count);
  WriteMessageHeader(header, bytes);
  slot.length = header.length;
  // An error leaves no request; the receiver's deadline reports it.
  if (MPI_Isend(bytes.data(), static_cast<int>(kMessageHeaderBytes + header.length), MPI_BYTE,
                destination_, first_tag_ + p, MPI_COMM_WORLD, &slot.request) != MPI_SUCCESS) {
    slot.request = MPI_REQUEST_NULL;
  }
}

bool MpiOutlet::Sent(ExchangePhase phase) const {
  const auto& slots = slots_[static_cast<int>(phase)];
  return std::all_of(slots.begin(), slots.end(), [](const Slot& slot) { return Done(slot); });
}

size_t MpiOutlet::outstanding_bytes(ExchangePhase phase) const {
  size_t bytes = 0;
  for (const Slot& slot : slots_[static_cast<int>(phase)]) {
    if (slot.request != MPI_REQUEST_NULL) bytes += slot.length;
  }
  return bytes;
}

}  // namespace shoal
