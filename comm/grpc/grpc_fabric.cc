// SPDX-License-Identifier: Apache-2.0
#include "comm/grpc/grpc_fabric.h"

#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "comm/connect.h"
#include "engine/base/endpoint.h"
#include "engine/base/status_macros.h"
#include "engine/base/steady_clock.h"

namespace shoal {
namespace {

constexpr absl::string_view kPrefix = "grpc:";
constexpr absl::Duration kFirstPause = absl::Milliseconds(25);
// A rank is told to connect only when its peers listen: one that still refuses then will not do.
constexpr absl::Duration kRefusedPatience = absl::Milliseconds(500);
constexpr absl::Duration kLongestPause = absl::Milliseconds(800);
constexpr absl::Duration kLeave = absl::Seconds(1);

// The host of "host:port" or "[v6]:port".
absl::string_view HostOf(absl::string_view address) {
  return address.substr(0, address.rfind(':'));
}

// By which name peers reach what listens at `listen`.
std::string AdvertisedHost(const FabricOptions& options) {
  if (!options.advertise.empty()) return options.advertise;
  const absl::string_view host = HostOf(options.listen);
  if (host != "0.0.0.0" && host != "[::]" && !host.empty()) return std::string(host);
  char name[256] = {};
  return gethostname(name, sizeof(name) - 1) == 0 ? name : "localhost";
}

// gRPC allocates what it reads in large pieces and frees them soon. By default malloc returns such
// memory to the system and takes it again, page fault by page fault, which doubles the time of a
// large exchange; kept, it stays at its peak. These are settings of the process, for the process is
// a worker.
void KeepFreedMemory() {
  mallopt(M_MMAP_THRESHOLD, 32 << 20);  // the most that glibc accepts
  mallopt(M_TRIM_THRESHOLD, 256 << 20);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Fabric>> GrpcFabric::Make(const FabricOptions& options) {
  KeepFreedMemory();
  SHOAL_RETURN_IF_ERROR(Lane::Bytes(options.max_message_bytes).status());
  if (options.listen.find(':') == std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("listen address ", options.listen, ": want HOST:PORT"));
  }
  SHOAL_ASSIGN_OR_RETURN(TlsTexts tls, ReadTls(options.tls));
  auto fabric = absl::WrapUnique(new GrpcFabric(options, std::move(tls)));
  SHOAL_RETURN_IF_ERROR(fabric->Listen());
  return fabric;
}

GrpcFabric::GrpcFabric(const FabricOptions& options, TlsTexts tls)
    : options_(options), tls_(std::move(tls)), service_(changed_) {}

absl::Status GrpcFabric::Listen() {
  int port = 0;
  grpc::ServerBuilder builder;
  SetServerOptions(builder, options_);
  builder.AddListeningPort(options_.listen, MakeServerCredentials(tls_), &port);
  builder.RegisterCallbackGenericService(&service_);
  server_ = builder.BuildAndStart();
  if (server_ == nullptr || port == 0) {
    return absl::UnavailableError(absl::StrCat(
        "cannot listen on ", options_.listen,
        tls_.enabled ? " with this TLS certificate and key" : "", ": is the address in use?"));
  }
  endpoint_ = absl::StrCat(kPrefix, AdvertisedHost(options_), ":", port);
  return absl::OkStatus();
}

GrpcFabric::~GrpcFabric() {
  if (exchange_ != nullptr) {
    exchange_->Close();
    const absl::Time deadline = SteadyNow() + kLeave;
    for (RowSender* sender : senders_) {
      if (sender != nullptr) sender->AwaitEnd(deadline);
    }
  }
  for (const std::shared_ptr<IncomingLink>& link : links_) {
    if (link != nullptr) link->Close();
  }
  if (server_ != nullptr) {
    server_->Shutdown(std::chrono::system_clock::now());  // ends every stream, and waits for that
    server_->Wait();
  }
  exchange_.reset();
}

absl::StatusOr<std::unique_ptr<RowSender>> GrpcFabric::Dial(const Hello& mine, RankId peer,
                                                            const std::string& endpoint) {
  SHOAL_ASSIGN_OR_RETURN(const absl::string_view address, GrpcAddress(endpoint));
  SHOAL_ASSIGN_OR_RETURN(std::shared_ptr<SendSlots> slots,
                         SendSlots::Make(options_.max_message_bytes));
  std::shared_ptr<grpc::Channel> channel = grpc::CreateCustomChannel(
      std::string(address), MakeChannelCredentials(tls_), MakeChannelArguments(options_));
  return std::make_unique<RowSender>(mine.rank, peer, std::move(channel), std::move(slots), mine,
                                     changed_);
}

absl::Status GrpcFabric::AdvanceDialled(const Hello& mine, absl::Span<const std::string> endpoints,
                                        int rank, Peer& peer) {
  if (peer.sender == nullptr) {
    if (SteadyNow() < peer.dial_again) return absl::OkStatus();
    SHOAL_ASSIGN_OR_RETURN(peer.sender, Dial(mine, RankId(rank), endpoints[rank]));
  }
  const std::optional<absl::Status> state = peer.sender->State();
  if (!state.has_value()) return absl::OkStatus();
  if (state->ok()) {
    peer.last_failure = absl::OkStatus();
    return absl::OkStatus();
  }
  if (!absl::IsUnavailable(*state)) return *state;  // refused
  peer.last_failure = *state;
  peer.sender.reset();
  peer.pause = std::clamp(2 * peer.pause, kFirstPause, kLongestPause);
  peer.dial_again = SteadyNow() + peer.pause;
  return absl::OkStatus();
}

absl::Status GrpcFabric::AdvanceCalling(const Hello& mine, absl::Span<const std::string> endpoints,
                                        int rank, Peer& peer) {
  if (peer.link != nullptr) return absl::OkStatus();
  const std::optional<Hello> hello = service_.Waiting(RankId(rank));
  if (!hello.has_value()) return absl::OkStatus();
  const absl::Status verdict = JudgeHello(mine, *hello, endpoints);
  if (verdict.ok()) {
    SHOAL_ASSIGN_OR_RETURN(Lane lane, Lane::Allocate(options_.max_message_bytes));
    auto link = std::make_shared<IncomingLink>(RankId(rank), std::move(lane));
    if (service_.Welcome(RankId(rank), link, mine)) peer.link = std::move(link);
    return absl::OkStatus();
  }
  // One that is ahead of us waits there until we follow. A stranger is refused, and no concern of
  // ours.
  if (hello->epoch > mine.epoch && hello->cluster == mine.cluster) return verdict;
  service_.Refuse(RankId(rank), verdict);
  return hello->endpoint == endpoints[rank] ? verdict : absl::OkStatus();
}

absl::Status GrpcFabric::Advance(const Hello& mine, absl::Span<const std::string> endpoints,
                                 int rank, Peer& peer) {
  SHOAL_RETURN_IF_ERROR(AdvanceDialled(mine, endpoints, rank, peer));
  SHOAL_RETURN_IF_ERROR(AdvanceCalling(mine, endpoints, rank, peer));
  peer.done = peer.link != nullptr && peer.sender != nullptr && peer.sender->State().has_value() &&
              peer.sender->State()->ok();
  return absl::OkStatus();
}

absl::Status GrpcFabric::Introduce(const Hello& mine, absl::Span<const std::string> endpoints,
                                   absl::Time deadline, std::vector<Peer>& peers) {
  const absl::Time patience = std::min(deadline, SteadyNow() + kRefusedPatience);
  service_.StartEpoch(mine.epoch);
  for (int rank = 0; rank < mine.world; ++rank) {
    peers[rank].done = rank == mine.rank.value() || endpoints[rank].empty();
  }
  while (true) {
    const uint32_t heard = changed_.Listen();
    SHOAL_RETURN_IF_ERROR(gate_.Check(mine.epoch));
    std::vector<RankId> missing, refused;
    for (int rank = 0; rank < mine.world; ++rank) {
      Peer& peer = peers[rank];
      if (peer.done) continue;
      if (absl::Status status = Advance(mine, endpoints, rank, peer); !status.ok()) {
        return ConnectError(mine, endpoints, {RankId(rank)}, status);
      }
      if (peer.done) continue;
      missing.push_back(RankId(rank));
      if (!peer.last_failure.ok()) refused.push_back(RankId(rank));
    }
    if (missing.empty()) return absl::OkStatus();
    const absl::Time now = SteadyNow();
    if (!refused.empty() && now >= patience) {
      return ConnectError(mine, endpoints, refused, peers[refused.front().value()].last_failure);
    }
    const absl::Duration left = deadline - now;
    if (left <= absl::ZeroDuration()) {
      return ConnectError(mine, endpoints, missing,
                          absl::DeadlineExceededError("it has not connected"));
    }
    changed_.Sleep(heard, std::min(left, kFirstPause));
  }
}

absl::StatusOr<Exchange*> GrpcFabric::Connect(Epoch epoch, RankId rank,
                                              absl::Span<const std::string> endpoints,
                                              absl::Time deadline) {
  SHOAL_ASSIGN_OR_RETURN(
      const Hello mine, BeginConnect(options_, endpoint_, exchange_.get(), epoch, rank, endpoints));
  const int world = mine.world;
  std::vector<Peer> peers(world);
  if (absl::Status status = Introduce(mine, endpoints, deadline, peers); !status.ok()) {
    for (Peer& peer : peers) {
      if (peer.link != nullptr) peer.link->Close();
    }
    return status;
  }
  for (const std::shared_ptr<IncomingLink>& link : links_) {
    if (link != nullptr) link->Close();
  }
  if (exchange_ == nullptr) {
    SHOAL_ASSIGN_OR_RETURN(exchange_,
                           LaneExchange::Make(rank, world, options_.max_message_bytes, *this));
  }
  links_.assign(world, nullptr);
  senders_.assign(world, nullptr);
  std::vector<Lane> in(world);
  std::vector<std::unique_ptr<Outlet>> out(world);
  for (int peer = 0; peer < world; ++peer) {
    if (peers[peer].link == nullptr) continue;  // ourselves, or absent
    links_[peer] = std::move(peers[peer].link);
    in[peer] = links_[peer]->lane();
    senders_[peer] = peers[peer].sender.get();
    out[peer] = std::move(peers[peer].sender);
  }
  SHOAL_RETURN_IF_ERROR(exchange_->Relink(epoch, std::move(in), std::move(out)));
  for (int peer = 0; peer < world; ++peer) {
    if (links_[peer] == nullptr) continue;
    links_[peer]->Attach(*this);
    senders_[peer]->Attach(*this);
  }
  return exchange_.get();
}

void GrpcFabric::Abandon(Epoch next) {
  gate_.Close(next);
  changed_.Ring();
}

void GrpcFabric::RoomMade() {
  for (const std::shared_ptr<IncomingLink>& link : links_) {
    if (link != nullptr) link->RoomMade();
  }
}

void GrpcFabric::LinkLost(RankId peer, const absl::Status& why) { exchange_->LinkLost(peer, why); }

}  // namespace shoal
