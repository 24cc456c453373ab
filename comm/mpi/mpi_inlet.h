// SPDX-License-Identifier: Apache-2.0
// What one rank sends us over MPI, received straight into the slots of a lane of the inbox: every
// free slot has a posted MPI_Irecv, and a completed one is published to the lane's reader.
#pragma once

#include <mpi.h>

#include <array>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "comm/lane.h"
#include "comm/mpi/mpi_runtime.h"
#include "engine/base/ids.h"

namespace shoal {

class MpiInlet {
 public:
  // Messages of a phase come from `peer`, which is MPI rank `source`, with tag `first_tag` + phase.
  // Errors: those of Lane::Allocate.
  static absl::StatusOr<std::unique_ptr<MpiInlet>> Make(MpiRuntime& runtime, RankId peer,
                                                        int source, int first_tag,
                                                        size_t max_message_bytes);
  // Takes the posted receives back; those that cannot be taken back go to quarantine.
  ~MpiInlet();

  const Lane& lane() const { return lane_; }

  // Publishes what has arrived and posts a receive for every free slot. Whether something had
  // arrived. Errors: DataLoss for a corrupt message, Internal from MPI; the inlet is of no use
  // after one.
  absl::StatusOr<bool> Progress();

 private:
  // Messages are numbered through all epochs; number n lies in slot n % kLaneSlots. MPI keeps their
  // order within a phase, not between the two.
  struct Receive {
    MPI_Request request = MPI_REQUEST_NULL;
    int bytes = 0;  // once completed
  };
  struct Phase {
    uint64_t freed = 0;    // slots of messages below this number are free
    uint64_t arrived = 0;  // messages below this number were published or dropped
    uint64_t posted = 0;   // receives below this number were posted
    uint64_t first = 0;    // number of message 0 of the writer's epoch
    std::array<Receive, kLaneSlots> receives;
  };
  MpiInlet(MpiRuntime& runtime, RankId peer, int source, int first_tag, Lane lane);
  LaneControl::End& writer() const { return lane_.control().writer; }
  LaneControl::End& reader() const { return lane_.control().reader; }
  absl::Status PostFree(int phase);
  // Deals with the next message if it is there. Whether it was.
  absl::StatusOr<bool> Take(int phase);
  absl::StatusOr<MessageHeader> ReadHeader(int phase, uint64_t number) const;
  void FollowEpoch(Epoch epoch);

  MpiRuntime& runtime_;
  const RankId peer_;
  const int source_;
  const int first_tag_;
  Lane lane_;
  std::array<Phase, kPhases> phases_;
};

}  // namespace shoal
