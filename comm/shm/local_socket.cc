// SPDX-License-Identifier: Apache-2.0
#include "comm/shm/local_socket.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "comm/hello.h"

namespace shoal {
namespace {

constexpr int kSocketType = SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC;
constexpr int kBacklog = 1024;

struct Address {
  sockaddr_un value = {};
  socklen_t length = 0;
};

// An abstract address: a zero byte, then the name. Empty when the name is too long.
std::optional<Address> AbstractAddress(absl::string_view name) {
  Address address;
  if (name.empty() || name.size() + 1 > sizeof(address.value.sun_path)) return std::nullopt;
  address.value.sun_family = AF_UNIX;
  std::memcpy(address.value.sun_path + 1, name.data(), name.size());
  address.length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  return address;
}

absl::Status Unavailable(absl::string_view what, absl::string_view name) {
  return absl::UnavailableError(
      absl::StrCat(what, " local socket ", name, ": ", std::strerror(errno)));
}

}  // namespace

absl::StatusOr<UniqueFd> ListenLocal(absl::string_view name) {
  const std::optional<Address> address = AbstractAddress(name);
  if (!address) return absl::InvalidArgumentError(absl::StrCat("local socket name ", name));
  UniqueFd socket_fd(socket(AF_UNIX, kSocketType, 0));
  if (!socket_fd ||
      bind(socket_fd.get(), reinterpret_cast<const sockaddr*>(&address->value), address->length) !=
          0 ||
      listen(socket_fd.get(), kBacklog) != 0) {
    return Unavailable("listening on", name);
  }
  return socket_fd;
}

absl::StatusOr<UniqueFd> DialLocal(absl::string_view name) {
  const std::optional<Address> address = AbstractAddress(name);
  if (!address) return absl::InvalidArgumentError(absl::StrCat("local socket name ", name));
  UniqueFd socket_fd(socket(AF_UNIX, kSocketType, 0));
  if (!socket_fd) return Unavailable("opening", name);
  if (connect(socket_fd.get(), reinterpret_cast<const sockaddr*>(&address->value),
              address->length) != 0) {
    if (errno == EAGAIN || errno == EINTR)
      return absl::ResourceExhaustedError("the peer's queue of callers is full");
    return Unavailable("dialling", name);
  }
  if (!TrustedPeer(socket_fd)) {
    return absl::UnavailableError(absl::StrCat("local socket ", name, " belongs to another user"));
  }
  return socket_fd;
}

UniqueFd AcceptLocal(const UniqueFd& listener) {
  while (true) {
    UniqueFd socket_fd(accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!socket_fd || TrustedPeer(socket_fd)) return socket_fd;
  }
}

bool TrustedPeer(const UniqueFd& socket) {
  ucred peer = {};
  socklen_t length = sizeof(peer);
  if (getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) return false;
  return peer.uid == geteuid() || peer.uid == 0;
}

absl::Status SendPacket(const UniqueFd& socket, absl::string_view bytes, int fd) {
  iovec data = {const_cast<char*>(bytes.data()), bytes.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  if (fd >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &fd, sizeof(int));
  }
  if (sendmsg(socket.get(), &message, MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size()))
    return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("sending on a local socket: ", std::strerror(errno)));
}

absl::StatusOr<std::optional<Packet>> ReceivePacket(const UniqueFd& socket) {
  Packet packet;
  packet.bytes.resize(kMaxHelloBytes);
  iovec data = {packet.bytes.data(), packet.bytes.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message = {};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  const ssize_t received = recvmsg(socket.get(), &message, MSG_CMSG_CLOEXEC);
  if (received < 0 && (errno == EAGAIN || errno == EINTR)) return std::nullopt;
  if (received <= 0) return absl::UnavailableError("it hung up");
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    int fd = -1;
    std::memcpy(&fd, CMSG_DATA(header),
                sizeof(int));  // room for one only: the kernel closes any others
    packet.fd = UniqueFd(fd);
  }
  if ((message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0)
    return absl::DataLossError("its packet is too long");
  packet.bytes.resize(received);
  return packet;
}

}  // namespace shoal
