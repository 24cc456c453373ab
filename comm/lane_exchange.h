// SPDX-License-Identifier: Apache-2.0
// The Exchange of every transport whose messages arrive in lanes: `inprocess` and `shm`, where the
// engine writes a message into the receiver's own lane and that is the only copy, and `grpc`, where
// streams carry messages from pooled buffers to lanes. The fabrics differ in how lanes and outlets
// are made, not in how they are used.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "comm/carrier.h"
#include "comm/epoch_order.h"
#include "comm/inbox.h"
#include "comm/lane.h"
#include "comm/outlet.h"
#include "comm/peer_board.h"
#include "engine/parallel/exchange.h"

namespace shoal {

class LaneExchange final : public Exchange {
 public:
  // `carrier` outlives the exchange. Errors: those of Lane::Allocate, for the lane to oneself.
  static absl::StatusOr<std::unique_ptr<LaneExchange>> Make(RankId rank, int world,
                                                            size_t max_message_bytes,
                                                            Carrier& carrier);
  ~LaneExchange() override;

  RankId rank() const override { return rank_; }
  int world_size() const override { return static_cast<int>(outlets_.size()); }
  bool Present(RankId peer) const override { return present_[peer.value()]; }
  size_t max_message_bytes() const override { return max_message_bytes_; }
  absl::Span<std::byte> SendBuffer(const ExchangeTag& tag, RankId peer,
                                   absl::Time deadline) override;
  absl::Status Post(const ExchangeTag& tag, absl::Span<const size_t> bytes) override;
  absl::Status Wait(const ExchangeTag& tag, absl::Time deadline,
                    absl::Span<absl::Span<const std::byte>> received) override;
  absl::Span<const absl::Duration> Waited() const override { return inbox_.waited(); }
  void Release(const ExchangeTag& tag) override;
  absl::Status InstallEpoch(Epoch epoch) override;
  void Cancel() override;

  // Whether Relink or InstallEpoch would accept `epoch`. Errors: FailedPrecondition.
  absl::Status CheckEpoch(Epoch epoch) const { return CheckEpochFollows(epoch, epoch_, used_); }
  // For the fabric: new ways to every peer (in[p] carries messages from p to us, out[p] ours to p;
  // our own are kept), the old ones closed, nobody failed, and `epoch` installed. Peers without an
  // outlet are absent in it. Not concurrently with the engine's calls. Errors: those of
  // InstallEpoch; then nothing was changed.
  absl::Status Relink(Epoch epoch, std::vector<Lane> in, std::vector<std::unique_ptr<Outlet>> out);
  // For a fabric whose ways last: installs `epoch` with these ranks present, by rank; absent ones
  // are not held against anybody.
  absl::Status Enter(Epoch epoch, const std::vector<bool>& present);
  // Tells every peer that this rank leaves in good order.
  void Close();
  // Any thread: what told us that `peer` lives has ended. A peer that left in good order has closed
  // its lanes before and is missed only where a message of it is; otherwise every wait fails with
  // `why`, said as "rank 3 <why>".
  void LinkLost(RankId peer, const absl::Status& why);

 private:
  // What SendBuffer found for one phase, until Post.
  struct Sending {
    std::vector<bool> reserved;  // by rank
    absl::Status error;
  };

  LaneExchange(RankId rank, int world, size_t max_message_bytes, Carrier& carrier);
  absl::Status AwaitSent(const ExchangeTag& tag, absl::Time deadline);
  absl::Status Reserve(const ExchangeTag& tag, RankId peer, absl::Time deadline);
  void WakeAll() ABSL_EXCLUSIVE_LOCKS_REQUIRED(wake_mutex_);

  RankId rank_;
  size_t max_message_bytes_;
  int spin_turns_;
  Carrier& carrier_;
  PeerBoard board_;
  Inbox inbox_;
  std::vector<std::unique_ptr<Outlet>> outlets_;  // by rank; null: absent
  std::vector<bool> present_;                     // by rank; written under wake_mutex_
  std::array<Sending, kPhases> sending_;
  Epoch epoch_;
  bool used_ = false;  // something was sent or awaited in this epoch
  // Held while lanes are replaced and while another thread rings their doorbells; never by the
  // engine's thread in a step.
  absl::Mutex wake_mutex_;
};

}  // namespace shoal
