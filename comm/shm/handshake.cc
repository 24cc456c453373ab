// SPDX-License-Identifier: Apache-2.0
#include "comm/shm/handshake.h"

#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "comm/connect.h"
#include "engine/base/status_macros.h"
#include "engine/base/steady_clock.h"

namespace shoal {
namespace {

constexpr int kRedialMs =
    10;  // a peer that is still in an older epoch hangs up on us; call again so much later

}  // namespace

Handshake::Handshake(const Hello& mine, absl::Span<const std::string> endpoints,
                     absl::Span<const ShmEndpoint> parsed, const UniqueFd& listener,
                     absl::Span<const Segment> inbound)
    : mine_(mine),
      endpoints_(endpoints),
      parsed_(parsed),
      listener_(listener),
      inbound_(inbound),
      sockets_(endpoints.size()),
      outbound_(endpoints.size()),
      dialling_(endpoints.size()) {}

absl::Status Handshake::Error(int peer, const absl::Status& why) const {
  return ConnectError(mine_, endpoints_, {RankId(peer)}, why);
}

std::vector<RankId> Handshake::Missing() const {
  std::vector<RankId> missing;
  for (int peer = 0; peer < mine_.world; ++peer) {
    if (IsPeer(peer) && !sockets_[peer]) missing.push_back(RankId(peer));
  }
  return missing;
}

absl::Status Handshake::Run(absl::Time deadline, const ConnectGate& gate,
                            const UniqueFd& abandoned) {
  constexpr size_t kFixed = 2;  // descriptors polled before those of `pending_`
  std::vector<pollfd> polled;
  for (auto missing = Missing(); !missing.empty(); missing = Missing()) {
    SHOAL_RETURN_IF_ERROR(gate.Check(mine_.epoch));
    SHOAL_RETURN_IF_ERROR(Dial());
    polled.assign(1, {.fd = listener_.get(), .events = POLLIN, .revents = 0});
    polled.push_back({.fd = abandoned.get(), .events = POLLIN, .revents = 0});
    for (const Pending& pending : pending_) {
      polled.push_back({.fd = pending.socket.get(), .events = POLLIN, .revents = 0});
    }
    const absl::Duration left = deadline - SteadyNow();
    if (left <= absl::ZeroDuration()) {
      return ConnectError(mine_, endpoints_, missing,
                          absl::DeadlineExceededError("it has not connected"));
    }
    const auto left_ms = absl::ToInt64Milliseconds(absl::Ceil(left, absl::Milliseconds(1)));
    poll(polled.data(), polled.size(), static_cast<int>(std::min<int64_t>(left_ms, kRedialMs)));
    for (size_t i = 0; i < pending_.size(); ++i) {
      if (polled[kFixed + i].revents != 0) SHOAL_RETURN_IF_ERROR(Hear(pending_[i]));
    }
    std::erase_if(pending_, [](const Pending& pending) { return !pending.socket; });
    if (polled[0].revents != 0) Accept();
    eventfd_t rung = 0;
    if (polled[1].revents != 0) eventfd_read(abandoned.get(), &rung);  // now ask the gate
  }
  return absl::OkStatus();
}

absl::Status Handshake::Dial() {
  for (int peer = mine_.rank.value() + 1; peer < mine_.world; ++peer) {
    if (!IsPeer(peer) || sockets_[peer] || dialling_[peer]) continue;
    absl::StatusOr<UniqueFd> socket = DialLocal(parsed_[peer].socket);
    if (absl::IsResourceExhausted(socket.status())) continue;  // later
    if (!socket.ok()) return Error(peer, socket.status());
    if (!SendPacket(*socket, EncodeHello(mine_), inbound_[peer].fd.get()).ok())
      continue;  // hung up on: later
    dialling_[peer] = true;
    pending_.push_back({.socket = *std::move(socket), .dialled = peer});
  }
  return absl::OkStatus();
}

void Handshake::Accept() {
  while (UniqueFd socket = AcceptLocal(listener_))
    pending_.push_back({.socket = std::move(socket)});
}

// Reads what came on a pending socket. Leaves pending.socket empty when it is settled, one way or
// the other.
absl::Status Handshake::Hear(Pending& pending) {
  absl::StatusOr<std::optional<Packet>> packet = ReceivePacket(pending.socket);
  if (packet.ok() && !packet->has_value()) return absl::OkStatus();
  if (packet.ok()) {
    return pending.dialled < 0 ? HearCaller(pending, **packet) : HearDialled(pending, **packet);
  }
  // A caller that hung up calls again when it wants; one that we called is called again.
  if (pending.dialled >= 0) dialling_[pending.dialled] = false;
  pending.socket = UniqueFd();
  return absl::OkStatus();
}

absl::Status Handshake::HearCaller(Pending& pending, const Packet& packet) {
  UniqueFd socket = std::move(pending.socket);
  const absl::StatusOr<Hello> theirs = ParseHello(packet.bytes);
  if (!theirs.ok()) return absl::OkStatus();  // a stranger
  const int peer = theirs->rank.value();
  const absl::Status verdict = JudgeHello(mine_, *theirs, endpoints_);
  if (!verdict.ok()) {
    // One that is ahead of us gets no answer and calls again, when we may have followed.
    if (theirs->epoch > mine_.epoch && theirs->cluster == mine_.cluster)
      return Error(mine_.rank.value(), verdict);
    (void)SendPacket(socket, EncodeHelloReply({.verdict = verdict, .hello = {}}),
                     -1);  // it may be gone: no matter
    // A worker of the past is no concern of ours. One of this roster that is set up otherwise will
    // never fit: say so.
    const bool of_roster = theirs->epoch == mine_.epoch && peer >= 0 && peer < mine_.world &&
                           theirs->endpoint == endpoints_[peer];
    return of_roster ? Error(peer, verdict) : absl::OkStatus();
  }
  const std::string reply = EncodeHelloReply({.verdict = absl::OkStatus(), .hello = mine_});
  if (!SendPacket(socket, reply, inbound_[peer].fd.get()).ok())
    return absl::OkStatus();  // it hung up
  return Finish(peer, std::move(socket), packet.fd);
}

absl::Status Handshake::HearDialled(Pending& pending, const Packet& packet) {
  UniqueFd socket = std::move(pending.socket);
  const int peer = pending.dialled;
  const absl::StatusOr<HelloReply> reply = ParseHelloReply(packet.bytes);
  if (!reply.ok()) return Error(peer, reply.status());
  if (!reply->verdict.ok()) return Error(peer, reply->verdict);
  if (absl::Status verdict = JudgeHello(mine_, reply->hello, endpoints_); !verdict.ok())
    return Error(peer, verdict);
  if (reply->hello.rank.value() != peer) {
    return Error(
        peer, absl::DataLossError(absl::StrCat("it says it is rank ", reply->hello.rank.value())));
  }
  return Finish(peer, std::move(socket), packet.fd);
}

absl::Status Handshake::Finish(int peer, UniqueFd socket, const UniqueFd& lane) {
  absl::StatusOr<Lane> outbound = MapSegment(lane, mine_.max_message_bytes);
  if (!outbound.ok()) return Error(peer, outbound.status());
  outbound_[peer] = std::make_unique<LaneWriter>(*std::move(outbound));
  sockets_[peer] = std::move(socket);
  return absl::OkStatus();
}

}  // namespace shoal
