// SPDX-License-Identifier: Apache-2.0
// What we send to one rank over MPI: header and rows lie together in a slot and go out as one
// MPI_Isend. A slot is free when its send has completed.
#pragma once

#include <mpi.h>

#include <array>

#include "comm/lane.h"
#include "comm/mpi/mpi_runtime.h"
#include "comm/outlet.h"

namespace shoal {

class MpiOutlet final : public Outlet {
 public:
  // Messages of a phase go to MPI rank `destination` with tag `first_tag` + phase. Errors: those of
  // Lane::Allocate.
  static absl::StatusOr<std::unique_ptr<MpiOutlet>> Make(MpiRuntime& runtime, int destination,
                                                         int first_tag, size_t max_message_bytes);
  ~MpiOutlet() override;

  // What has not been sent yet moves to quarantine with its buffers, and new ones take their place.
  void InstallEpoch(Epoch epoch) override;
  void Close() override {}
  bool CanWrite(ExchangePhase phase) const override;
  absl::Span<std::byte> Rows(ExchangePhase phase) const override;
  void Publish(const MessageHeader& header) override;
  bool Sent(ExchangePhase phase) const override;
  Epoch reader_epoch() const override { return epoch_; }
  bool reader_closed() const override { return false; }
  size_t outstanding_bytes(ExchangePhase phase) const override;
  Doorbell& bell() const override { return memory_.control().release; }

 private:
  struct Slot {
    mutable MPI_Request request = MPI_REQUEST_NULL;
    size_t length = 0;
  };

  MpiOutlet(MpiRuntime& runtime, int destination, int first_tag, Lane memory)
      : runtime_(runtime),
        destination_(destination),
        first_tag_(first_tag),
        memory_(std::move(memory)) {}
  static bool Done(const Slot& slot);
  // Whether something was given to quarantine.
  bool Abandon();

  MpiRuntime& runtime_;
  const int destination_;
  const int first_tag_;
  Lane memory_;  // used for its slots and a doorbell that nobody rings but Cancel
  Epoch epoch_;
  std::array<std::array<Slot, kLaneSlots>, kPhases> slots_;
  std::array<uint64_t, kPhases> published_{};
};

}  // namespace shoal
