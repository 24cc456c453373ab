// SPDX-License-Identifier: Apache-2.0
// One round of introductions among the ranks of a host: every present pair ends up with a socket
// and with a lane each way. The lower rank dials; both sides send their hello with the descriptor of the lane
// they will read.
#pragma once

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "comm/connect_gate.h"
#include "comm/hello.h"
#include "comm/lane.h"
#include "comm/shm/local_socket.h"
#include "comm/shm/segment.h"
#include "comm/shm/shm_endpoint.h"
#include "comm/shm/unique_fd.h"

namespace shoal {

class Handshake {
 public:
  // `inbound[p]` is the lane that p will write to us. All arguments outlive the object.
  Handshake(const Hello& mine, absl::Span<const std::string> endpoints,
            absl::Span<const ShmEndpoint> parsed, const UniqueFd& listener,
            absl::Span<const Segment> inbound);

  // Errors as Fabric::Connect. `abandoned` is readable once `gate` may have been closed.
  absl::Status Run(absl::Time deadline, const ConnectGate& gate, const UniqueFd& abandoned);

  // After Run: by rank; nothing for ourselves and for absent ranks.
  std::vector<UniqueFd> TakeSockets() { return std::move(sockets_); }
  std::vector<std::unique_ptr<Outlet>> TakeOutbound() { return std::move(outbound_); }

 private:
  struct Pending {
    UniqueFd socket;
    int dialled = -1;  // the rank we called, or -1 for a caller
  };

  absl::Status Dial();
  void Accept();
  absl::Status Hear(Pending& pending);
  absl::Status HearCaller(Pending& pending, const Packet& packet);
  absl::Status HearDialled(Pending& pending, const Packet& packet);
  absl::Status Finish(int peer, UniqueFd socket, const UniqueFd& lane);
  absl::Status Error(int peer, const absl::Status& why) const;
  bool IsPeer(int rank) const { return rank != mine_.rank.value() && !endpoints_[rank].empty(); }
  std::vector<RankId> Missing() const;

  const Hello& mine_;
  absl::Span<const std::string> endpoints_;
  absl::Span<const ShmEndpoint> parsed_;
  const UniqueFd& listener_;
  absl::Span<const Segment> inbound_;
  std::vector<Pending> pending_;
  std::vector<UniqueFd> sockets_;  // by rank, once introduced
  std::vector<std::unique_ptr<Outlet>> outbound_;
  std::vector<bool> dialling_;  // by rank: a call is pending
};

}  // namespace shoal
