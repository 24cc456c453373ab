// SPDX-License-Identifier: Apache-2.0
#include "comm/mpi/mpi_inlet.h"

#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"

namespace shoal {

absl::StatusOr<std::unique_ptr<MpiInlet>> MpiInlet::Make(MpiRuntime& runtime, RankId peer,
                                                         int source, int first_tag,
                                                         size_t max_message_bytes) {
  SHOAL_ASSIGN_OR_RETURN(Lane lane, Lane::Allocate(max_message_bytes));
  return absl::WrapUnique(new MpiInlet(runtime, peer, source, first_tag, std::move(lane)));
}

MpiInlet::MpiInlet(MpiRuntime& runtime, RankId peer, int source, int first_tag, Lane lane)
    : runtime_(runtime),
      peer_(peer),
      source_(source),
      first_tag_(first_tag),
      lane_(std::move(lane)) {}

MpiInlet::~MpiInlet() {
  for (Phase& phase : phases_) {
    for (Receive& receive : phase.receives) {
      if (receive.request == MPI_REQUEST_NULL) continue;
      MPI_Cancel(&receive.request);
      int completed = 0;
      MPI_Test(&receive.request, &completed, MPI_STATUS_IGNORE);
      if (completed == 0) runtime_.Quarantine(receive.request, lane_.memory());
    }
  }
}

absl::StatusOr<bool> MpiInlet::Progress() {
  bool any = false;
  for (int phase = 0; phase < kPhases; ++phase) {
    SHOAL_RETURN_IF_ERROR(PostFree(phase));
    while (true) {
      SHOAL_ASSIGN_OR_RETURN(const bool took, Take(phase));
      if (!took) break;
      any = true;
      SHOAL_RETURN_IF_ERROR(PostFree(phase));
    }
  }
  return any;
}

absl::Status MpiInlet::PostFree(int phase) {
  Phase& state = phases_[phase];
  const int64_t reader_epoch = reader().epoch.load(std::memory_order_acquire);
  const int64_t writer_epoch = writer().epoch.load(std::memory_order_relaxed);
  if (reader_epoch == writer_epoch) {
    state.freed = state.first + reader().count[phase].load(std::memory_order_acquire);
  } else if (reader_epoch > writer_epoch) {
    state.freed = state.arrived;  // the reader has moved on and holds nothing
  }  // else the peer is ahead of us, and what we hold of the old epoch is not counted any more:
     // keep it
  for (; state.posted < state.freed + kLaneSlots; ++state.posted) {
    const absl::Span<std::byte> slot = lane_.Slot(static_cast<ExchangePhase>(phase), state.posted);
    SHOAL_RETURN_IF_ERROR(MpiStatus(
        MPI_Irecv(slot.data(), static_cast<int>(slot.size()), MPI_BYTE, source_, first_tag_ + phase,
                  MPI_COMM_WORLD, &state.receives[state.posted % kLaneSlots].request),
        "MPI_Irecv"));
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> MpiInlet::Take(int phase) {
  Phase& state = phases_[phase];
  if (state.arrived == state.posted) return false;
  Receive& receive = state.receives[state.arrived % kLaneSlots];
  if (receive.request != MPI_REQUEST_NULL) {
    int completed = 0;
    MPI_Status status;
    const int code = MPI_Test(&receive.request, &completed, &status);
    if (code != MPI_SUCCESS) {
      return absl::DataLossError(
          absl::StrCat("sent what cannot be received: ", MpiStatus(code, "MPI").message()));
    }
    if (completed == 0) return false;
    MPI_Get_count(&status, MPI_BYTE, &receive.bytes);
  }
  SHOAL_ASSIGN_OR_RETURN(const MessageHeader header, ReadHeader(phase, state.arrived));
  const Epoch reader_epoch(reader().epoch.load(std::memory_order_acquire));
  Epoch writer_epoch(writer().epoch.load(std::memory_order_relaxed));
  if (header.tag.epoch > writer_epoch) {
    FollowEpoch(header.tag.epoch);
    writer_epoch = header.tag.epoch;
  }
  std::atomic<uint64_t>& published = writer().count[phase];
  if (header.tag.epoch < writer_epoch || header.tag.epoch < reader_epoch) {
    if (header.tag.epoch < writer_epoch && published.load(std::memory_order_relaxed) > 0) {
      return absl::DataLossError("sent a corrupt message: its epoch goes back");
    }
    ++state.arrived;  // of the past: dropped
    state.first = state.arrived;
    writer().first_slot[phase].store(state.first % kLaneSlots, std::memory_order_relaxed);
    return true;
  }
  if (header.tag.epoch > reader_epoch) return false;  // until we follow
  writer().published_ns[phase][state.arrived % kLaneSlots].store(SteadyNanos(),
                                                                 std::memory_order_relaxed);
  ++state.arrived;
  published.store(state.arrived - state.first, std::memory_order_release);
  lane_.control().arrival.Ring();
  return true;
}

absl::StatusOr<MessageHeader> MpiInlet::ReadHeader(int phase, uint64_t number) const {
  const auto corrupt = [](absl::string_view what) {
    return absl::DataLossError(absl::StrCat("sent a corrupt message: ", what));
  };
  const size_t bytes = phases_[phase].receives[number % kLaneSlots].bytes;
  const absl::StatusOr<MessageHeader> header =
      ParseMessageHeader(lane_.Slot(static_cast<ExchangePhase>(phase), number).subspan(0, bytes),
                         lane_.max_message_bytes());
  if (!header.ok()) return corrupt(header.status().message());
  if (header->source != peer_ || static_cast<int>(header->tag.phase) != phase ||
      header->kind != MessageKind::kRows) {
    return corrupt("message header: source, phase or kind is not this link's");
  }
  if (header->length != bytes - kMessageHeaderBytes) {
    return corrupt(absl::StrCat("message header: length ", header->length, ", followed by ",
                                bytes - kMessageHeaderBytes, " bytes"));
  }
  return *header;
}

void MpiInlet::FollowEpoch(Epoch epoch) {
  for (int phase = 0; phase < kPhases; ++phase) {
    Phase& state = phases_[phase];
    state.first = state.arrived;
    writer().first_slot[phase].store(state.first % kLaneSlots, std::memory_order_relaxed);
    writer().count[phase].store(0, std::memory_order_relaxed);
  }
  writer().epoch.store(epoch.value(), std::memory_order_release);
}

}  // namespace shoal
