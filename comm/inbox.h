// SPDX-License-Identifier: Apache-2.0
// The receiving half of an Exchange whose messages arrive in lanes: waits for one message of every
// present rank, hands out views of them, and gives the slots back.
#pragma once

#include <array>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "comm/carrier.h"
#include "comm/lane.h"
#include "comm/peer_board.h"
#include "engine/parallel/exchange.h"

namespace shoal {

class Inbox {
 public:
  // `board` and `carrier` outlive the inbox.
  Inbox(RankId rank, int world, const PeerBoard& board, Carrier& carrier);

  // Puts a lane (also one's own) in place; none, for a rank that is absent from now on. Not
  // concurrently with Wait or Release.
  void SetLane(RankId peer, Lane lane) { readers_[peer.value()] = LaneReader(std::move(lane)); }

  // `present`, by rank: whose messages are waited for. All of them have lanes; others may.
  void InstallEpoch(Epoch epoch, const std::vector<bool>& present);
  // As Exchange::Wait. `outstanding(p)` tells, for a timeout's message, how many of our bytes p has
  // not taken.
  absl::Status Wait(const ExchangeTag& tag, absl::Time deadline,
                    absl::Span<absl::Span<const std::byte>> received,
                    absl::FunctionRef<size_t(RankId)> outstanding);
  // As Exchange::Waited.
  absl::Span<const absl::Duration> waited() const { return waited_; }
  // As Exchange::Release. A tag that is not held is ignored: its wait failed, or its epoch has
  // passed.
  void Release(const ExchangeTag& tag);
  // Makes a Wait in progress look at the board again. Any thread.
  void Wake();
  // Tells the writer of a lane that nobody reads it any more.
  void Close(RankId peer);
  // Whether the writer of a lane has left in good order. Only where there is a lane. Any thread.
  bool WriterClosed(RankId peer) const { return readers_[peer.value()].writer_closed(); }

 private:
  struct Held {
    ExchangeTag tag;
    bool released = false;
  };
  // The messages of one phase: `waited` exchanges were delivered in this epoch, the first
  // `released` of them given back.
  struct Phase {
    uint64_t waited = 0;
    uint64_t released = 0;
    std::array<Held, kLaneSlots> held;
  };

  absl::Status Collect(const ExchangeTag& tag, absl::Time deadline,
                       absl::Span<absl::Span<const std::byte>> received,
                       absl::FunctionRef<size_t(RankId)> outstanding);
  void NoteWaits(ExchangePhase phase, uint64_t count, int64_t begin_ns);
  // Calls visit(rank, reader) for every present rank.
  template <typename Visit>
  void ForEachPresent(Visit visit) const;
  bool Hopeless(const ExchangeTag& tag, uint64_t count) const;
  absl::Status WhyMissing(const ExchangeTag& tag, uint64_t count,
                          absl::FunctionRef<size_t(RankId)> outstanding) const;

  RankId rank_;
  int spin_turns_;
  const PeerBoard& board_;
  Carrier& carrier_;
  Epoch epoch_;
  std::vector<LaneReader> readers_;  // by rank
  std::vector<bool> present_;        // by rank
  std::vector<absl::Duration> waited_;  // by rank
  std::array<Phase, kPhases> phases_;
};

}  // namespace shoal
