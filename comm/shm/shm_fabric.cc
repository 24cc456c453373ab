// SPDX-License-Identifier: Apache-2.0
#include "comm/shm/shm_fabric.h"

#include <sys/eventfd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "comm/connect.h"
#include "comm/hello.h"
#include "comm/shm/handshake.h"
#include "comm/shm/local_socket.h"
#include "comm/shm/segment.h"
#include "engine/base/status_macros.h"

namespace shoal {

absl::StatusOr<std::unique_ptr<Fabric>> ShmFabric::Make(const FabricOptions& options) {
  SHOAL_RETURN_IF_ERROR(Lane::Bytes(options.max_message_bytes).status());
  SHOAL_ASSIGN_OR_RETURN(ShmEndpoint here, ShmEndpoint::MakeHere(options.cluster));
  SHOAL_ASSIGN_OR_RETURN(UniqueFd listener, ListenLocal(here.socket));
  UniqueFd wake(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  UniqueFd abandoned(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake || !abandoned) {
    return absl::UnavailableError(absl::StrCat("eventfd: ", std::strerror(errno)));
  }
  return absl::WrapUnique<Fabric>(new ShmFabric(options, std::move(here), std::move(listener),
                                                std::move(wake), std::move(abandoned)));
}

ShmFabric::ShmFabric(const FabricOptions& options, ShmEndpoint here, UniqueFd listener,
                     UniqueFd wake, UniqueFd abandoned)
    : options_(options),
      here_(std::move(here)),
      listener_(std::move(listener)),
      abandoned_(std::move(abandoned)),
      watcher_(std::move(wake), [this](RankId peer) {
        exchange_->LinkLost(peer,
                            absl::UnavailableError("is gone: its end of the link was closed"));
      }) {}

ShmFabric::~ShmFabric() {
  // Lanes are closed before sockets, so that peers know good order from a death.
  const std::vector<Link> links = watcher_.Take();
  exchange_.reset();
}

absl::StatusOr<ShmEndpoint> ShmFabric::ParsePeer(const std::string& endpoint) const {
  SHOAL_ASSIGN_OR_RETURN(ShmEndpoint peer, ShmEndpoint::Parse(endpoint));
  if (peer.host == here_.host) return peer;
  return absl::FailedPreconditionError(
      absl::StrCat("transport shm joins ranks of one host: this is ", here_.host, ", it is on ",
                   peer.host, "; use transport grpc or mpi"));
}

absl::StatusOr<std::vector<ShmEndpoint>> ShmFabric::ParsePeers(
    const Hello& mine, absl::Span<const std::string> endpoints) const {
  std::vector<ShmEndpoint> parsed(endpoints.size());
  std::vector<RankId> unfit;
  absl::Status why;  // of the first
  for (size_t rank = 0; rank < endpoints.size(); ++rank) {
    if (endpoints[rank].empty()) continue;
    absl::StatusOr<ShmEndpoint> peer = ParsePeer(endpoints[rank]);
    if (peer.ok()) {
      parsed[rank] = *std::move(peer);
    } else {
      unfit.push_back(RankId(static_cast<int32_t>(rank)));
      why.Update(peer.status());
    }
  }
  if (!unfit.empty()) return ConnectError(mine, endpoints, unfit, why);
  return parsed;
}

absl::StatusOr<Exchange*> ShmFabric::Connect(Epoch epoch, RankId rank,
                                             absl::Span<const std::string> endpoints,
                                             absl::Time deadline) {
  SHOAL_ASSIGN_OR_RETURN(const Hello mine, BeginConnect(options_, endpoint(), exchange_.get(),
                                                        epoch, rank, endpoints));
  SHOAL_ASSIGN_OR_RETURN(const std::vector<ShmEndpoint> parsed, ParsePeers(mine, endpoints));
  const int world = mine.world;
  std::vector<Segment> inbound(world);
  for (int peer = 0; peer < world; ++peer) {
    if (peer == rank.value() || endpoints[peer].empty()) continue;
    SHOAL_ASSIGN_OR_RETURN(inbound[peer], CreateSegment(options_.max_message_bytes));
  }
  Handshake handshake(mine, endpoints, parsed, listener_, inbound);
  SHOAL_RETURN_IF_ERROR(handshake.Run(deadline, gate_, abandoned_));

  const std::vector<Link> old = watcher_.Take();
  if (exchange_ == nullptr) {
    SHOAL_ASSIGN_OR_RETURN(exchange_,
                           LaneExchange::Make(rank, world, options_.max_message_bytes, carrier_));
  }
  std::vector<Lane> in(world);
  for (int peer = 0; peer < world; ++peer) in[peer] = std::move(inbound[peer].lane);
  SHOAL_RETURN_IF_ERROR(exchange_->Relink(epoch, std::move(in), handshake.TakeOutbound()));
  std::vector<UniqueFd> sockets = handshake.TakeSockets();
  std::vector<Link> links;
  for (int peer = 0; peer < world; ++peer) {
    if (sockets[peer]) links.push_back({RankId(peer), std::move(sockets[peer])});
  }
  watcher_.Watch(std::move(links));
  return exchange_.get();
}

void ShmFabric::Abandon(Epoch next) {
  gate_.Close(next);
  eventfd_write(abandoned_.get(), 1);
}

}  // namespace shoal
