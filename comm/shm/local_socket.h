// SPDX-License-Identifier: Apache-2.0
// Unix sockets between the ranks of one host: they carry the introduction and the lanes'
// descriptors, and afterwards only their own end, which says that a peer is gone. Abstract names
// vanish with their process; since such names have no permissions, the peer's user is asked of the
// kernel.
#pragma once

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "comm/shm/unique_fd.h"

namespace shoal {

struct Packet {
  std::string bytes;
  UniqueFd fd;  // when one came along
};

// All sockets are non-blocking, sequenced-packet, closed on exec. Errors: Unavailable naming the
// socket; for DialLocal also ResourceExhausted when the listener's queue is full for the moment.
absl::StatusOr<UniqueFd> ListenLocal(absl::string_view name);
absl::StatusOr<UniqueFd> DialLocal(absl::string_view name);
// The next caller, if any. Callers of another user (but root) are hung up on.
UniqueFd AcceptLocal(const UniqueFd& listener);

// Whether the process at the other end runs as our user or as root.
bool TrustedPeer(const UniqueFd& socket);

// Sends one packet, with a descriptor when `fd` is not -1. Errors: Unavailable.
absl::Status SendPacket(const UniqueFd& socket, absl::string_view bytes, int fd);
// The next packet; nullopt when none is there yet. Errors: Unavailable "hung up"; DataLoss when it
// is too long.
absl::StatusOr<std::optional<Packet>> ReceivePacket(const UniqueFd& socket);

}  // namespace shoal
