// SPDX-License-Identifier: Apache-2.0
#include "coordinator/sim/sim_fabric.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "comm/connect.h"
#include "comm/exchange_errors.h"
#include "comm/hello.h"
#include "comm/message_header.h"
#include "coordinator/sim/message.h"
#include "coordinator/sim/network.h"
#include "coordinator/sim/node.h"
#include "coordinator/sim/process.h"
#include "coordinator/sim/random.h"
#include "engine/parallel/blamed_peers.h"

namespace shoal::sim {
namespace {

// So long a worker dials those who refuse, as comm/grpc does.
constexpr absl::Duration kRefusedPatience = absl::Milliseconds(500);

// The same in every process, as all of a world must be; never 0.
uint64_t Digest(absl::Span<const std::string> endpoints) {
  uint64_t digest = endpoints.size();
  for (const std::string& endpoint : endpoints) {
    uint64_t letters = endpoint.size();
    for (const char c : endpoint) letters = letters * 0x100000001b3u + static_cast<uint8_t>(c);
    digest = MixBits(digest, letters);
  }
  return digest | 1;
}

class SimExchange final : public Exchange {
 public:
  SimExchange(Network& network, Process& process, Node& node, RankId rank, int world,
              size_t max_message_bytes)
      : network_(network),
        process_(process),
        node_(node),
        rank_(rank),
        world_(world),
        max_message_bytes_(max_message_bytes),
        waited_(world) {}

  RankId rank() const override { return rank_; }
  int world_size() const override { return world_; }
  size_t max_message_bytes() const override { return max_message_bytes_; }
  bool Present(RankId peer) const override { return node_.present[peer.value()]; }

  absl::Span<std::byte> SendBuffer(const ExchangeTag& tag, RankId peer, absl::Time) override {
    if (!Present(peer) || tag.epoch != node_.epoch || node_.cancelled) return {};
    return network_.Scratch(world_, max_message_bytes_, peer.value())
        .subspan(kMessageHeaderBytes, max_message_bytes_);
  }
  absl::Status Post(const ExchangeTag& tag, absl::Span<const size_t> bytes) override;
  absl::Status Wait(const ExchangeTag& tag, absl::Time deadline,
                    absl::Span<absl::Span<const std::byte>> received) override;
  absl::Span<const absl::Duration> Waited() const override { return waited_; }
  void Release(const ExchangeTag& tag) override {
    if (tag.epoch == node_.epoch) node_.held[static_cast<int>(tag.phase)].clear();
  }
  absl::Status InstallEpoch(Epoch) override {
    return absl::UnimplementedError("epochs are installed by connecting");
  }
  void Cancel() override {
    node_.cancelled = true;
    node_.hopeless = true;
    node_.Wake();
  }

 private:
  Network& network_;
  Process& process_;
  Node& node_;
  const RankId rank_;
  const int world_;
  const size_t max_message_bytes_;
  std::vector<absl::Duration> waited_;
};

absl::Status SimExchange::Post(const ExchangeTag& tag, absl::Span<const size_t> bytes) {
  if (tag.epoch != node_.epoch) return EpochError(tag, rank_, node_.epoch, "it");
  if (node_.cancelled) return InExchange(tag, rank_, absl::AbortedError("cancelled"));
  for (int i = 1; i <= world_; ++i) {
    const int to = (rank_.value() + i) % world_;
    if (!node_.present[to]) continue;
    Node& peer = *node_.peers[to];
    if (node_.links[to] != LinkState::kWhole) continue;  // the wait says so
    if (network_.Swallowed(node_, peer)) continue;
    const size_t size = kMessageHeaderBytes + bytes[to];
    Message message;
    message.bytes = NewBytes(size);
    message.size = size;
    message.epoch = tag.epoch;
    const absl::Span<std::byte> scratch = network_.Scratch(world_, max_message_bytes_, to);
    std::memcpy(message.bytes.get(), scratch.data(), size);
    WriteMessageHeader({.tag = tag, .source = rank_, .length = bytes[to]},
                       {message.bytes.get(), size});
    message.arrival = network_.Arrival(node_, peer, size);
    peer.Take(rank_.value(), std::move(message));
  }
  return absl::OkStatus();
}

absl::Status SimExchange::Wait(const ExchangeTag& tag, absl::Time deadline,
                               absl::Span<absl::Span<const std::byte>> received) {
  std::fill(waited_.begin(), waited_.end(), absl::ZeroDuration());
  if (tag.epoch != node_.epoch) return EpochError(tag, rank_, node_.epoch, "it");
  const absl::Time begin = network_.timeline().now();
  node_.awaiting = tag;
  node_.Recount();
  if (node_.awaited == 0) node_.WakeAt(node_.all_arrive);
  const auto arrived = [&] {
    return node_.awaited == 0 && network_.timeline().now() >= node_.all_arrive;
  };
  process_.WaitUntil([&] { return node_.hopeless || arrived(); }, deadline);
  if (process_.dead()) return absl::AbortedError("killed");  // nothing is left of its node
  node_.awaiting.reset();
  const absl::Time now = network_.timeline().now();
  for (int source = 0; source < world_; ++source) {
    received[source] = {};
    if (!node_.present[source]) continue;
    const std::vector<Message>& queue = node_.inbox[source];
    const absl::Time arrival = queue.empty() ? now : std::min(queue.front().arrival, now);
    waited_[source] = std::max(arrival - begin, absl::ZeroDuration());
  }
  if (node_.hopeless || !arrived()) return node_.WhyMissing(tag, now);
  std::vector<Message>& held = node_.held[static_cast<int>(tag.phase)];
  held.clear();
  held.resize(world_);
  for (int source = 0; source < world_; ++source) {
    if (!node_.present[source]) continue;
    std::vector<Message>& queue = node_.inbox[source];
    held[source] = std::move(queue.front());
    queue.erase(queue.begin());
    const absl::StatusOr<MessageHeader> header =
        ParseMessageHeader(held[source].all(), max_message_bytes_);
    const absl::Status status =
        header.ok() ? CheckMessage(*header, RankId(source), tag) : header.status();
    if (!status.ok()) return BadMessage(tag, rank_, RankId(source), status);
    received[source] = held[source].rows();
  }
  return absl::OkStatus();
}

class SimFabric final : public Fabric {
 public:
  SimFabric(Network& network, Process& process, Node& node, size_t max_message_bytes)
      : network_(network), process_(process), node_(node), max_message_bytes_(max_message_bytes) {}
  ~SimFabric() override {
    if (!process_.dead()) network_.Died(process_);
  }

  absl::string_view transport() const override { return "sim"; }
  std::string endpoint() const override { return node_.endpoint; }
  int fixed_rank() const override { return process_.options().fixed_rank; }
  absl::StatusOr<Exchange*> Connect(Epoch epoch, RankId rank,
                                    absl::Span<const std::string> endpoints,
                                    absl::Time deadline) override;
  void Abandon(Epoch next) override {
    node_.abandoned = std::max(node_.abandoned, next);
    node_.Wake();
  }

 private:
  void Enter(Epoch epoch, RankId rank, absl::Span<const std::string> endpoints);
  // Waits until all peers are met.
  absl::Status Introduce(absl::Time deadline);

  Network& network_;
  Process& process_;
  Node& node_;
  const size_t max_message_bytes_;
  std::unique_ptr<SimExchange> exchange_;
};

void SimFabric::Enter(Epoch epoch, RankId rank, absl::Span<const std::string> endpoints) {
  const size_t world = endpoints.size();
  node_.entered = epoch;
  node_.roster = Digest(endpoints);
  node_.rank = rank;
  node_.hello = {.cluster = "sim",
                 .epoch = epoch,
                 .rank = rank,
                 .world = static_cast<int>(world),
                 .endpoint = node_.endpoint};
  node_.endpoints = endpoints;
  node_.peers.assign(world, nullptr);
  node_.peers[rank.value()] = &node_;
  node_.meets.assign(world, absl::InfiniteFuture());
  node_.met = network_.timeline().now();
  node_.failed = absl::OkStatus();
  node_.missing = 0;
  node_.epoch = epoch;  // from now on nothing older is heard
  node_.present.assign(world, false);
  node_.links.assign(world, LinkState::kWhole);
  node_.inbox.resize(world);
  node_.last_arrival.resize(world, absl::InfinitePast());
  for (std::vector<Message>& held : node_.held) held.clear();
  for (std::vector<Message>& queue : node_.inbox) {
    std::erase_if(queue, [&](const Message& message) { return message.epoch < epoch; });
  }
  for (size_t r = 0; r < world; ++r) {
    node_.present[r] = !endpoints[r].empty();
    if (node_.present[r] && node_.peers[r] == nullptr) ++node_.missing;
  }
}

absl::Status SimFabric::Introduce(absl::Time deadline) {
  const Epoch epoch = node_.entered;
  const absl::Span<const std::string> endpoints = node_.endpoints;
  const auto error = [&](const std::vector<RankId>& peers, const absl::Status& why) {
    return ConnectError(node_.hello, endpoints, peers, why);
  };
  for (size_t r = 0; r < endpoints.size(); ++r) {
    const RankId rank(static_cast<int32_t>(r));
    if (!node_.present[r] || rank == node_.rank) continue;
    Node* const peer = network_.Find(endpoints[r]);
    if (peer == nullptr || peer->process == nullptr) {
      node_.failed = error({rank}, absl::UnavailableError("nobody is there"));
    } else if (peer->entered > epoch) {
      node_.failed =
          error({rank}, absl::AbortedError(absl::StrCat("it is in epoch ", peer->entered.value())));
    } else {
      network_.Meet(node_, *peer);
    }
  }
  const absl::Time patience = network_.timeline().now() + kRefusedPatience;
  if (node_.missing == 0) {
    node_.WakeAt(node_.met);
  } else if (patience < deadline) {
    node_.WakeAt(patience);
  }
  const auto met = [&] { return node_.missing == 0 && network_.timeline().now() >= node_.met; };
  const auto refused = [&] {
    return network_.timeline().now() >= patience && !network_.Refusing(node_).empty();
  };
  process_.WaitUntil(
      [&] { return met() || node_.abandoned > epoch || !node_.failed.ok() || refused(); },
      deadline);
  if (process_.dead()) return absl::AbortedError("killed");
  if (node_.abandoned > epoch) return absl::AbortedError("abandoned");
  if (!node_.failed.ok()) return node_.failed;
  if (met()) return absl::OkStatus();
  if (refused()) return error(network_.Refusing(node_), absl::UnavailableError("it refuses"));
  std::vector<RankId> missing;
  for (size_t r = 0; r < endpoints.size(); ++r) {
    const RankId rank(static_cast<int32_t>(r));
    if (!node_.present[r] || rank == node_.rank) continue;
    if (node_.meets[r] > network_.timeline().now()) missing.push_back(rank);
  }
  return error(missing, absl::DeadlineExceededError("it has not connected"));
}

absl::StatusOr<Exchange*> SimFabric::Connect(Epoch epoch, RankId rank,
                                             absl::Span<const std::string> endpoints,
                                             absl::Time deadline) {
  if (epoch <= node_.entered) return absl::AbortedError("not a later epoch");
  if (node_.abandoned > epoch) return absl::AbortedError("abandoned");
  Enter(epoch, rank, endpoints);
  const absl::Status introduced = Introduce(deadline);
  node_.endpoints = {};
  if (!introduced.ok()) {
    node_.roster = 0;  // nobody meets it any more
    return introduced;
  }
  node_.cancelled = false;
  if (exchange_ == nullptr) {
    exchange_ = std::make_unique<SimExchange>(
        network_, process_, node_, rank, static_cast<int>(endpoints.size()), max_message_bytes_);
  }
  return exchange_.get();
}

}  // namespace

std::unique_ptr<Fabric> MakeSimFabric(Network& network, Process& process, Node& node,
                                      size_t max_message_bytes) {
  return std::make_unique<SimFabric>(network, process, node, max_message_bytes);
}

}  // namespace shoal::sim
