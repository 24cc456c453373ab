// SPDX-License-Identifier: Apache-2.0
#include "coordinator/sim/network.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "comm/connect.h"
#include "comm/message_header.h"
#include "coordinator/sim/message.h"
#include "coordinator/sim/node.h"
#include "coordinator/sim/process.h"
#include "coordinator/sim/sim_fabric.h"

namespace shoal::sim {
namespace {

size_t Aligned(size_t bytes) {
  return (bytes + kMessageAlign - 1) / kMessageAlign * kMessageAlign;
}

}  // namespace

Network::Network(const NetworkOptions& options, uint64_t seed, Timeline& timeline)
    : options_(options), random_(seed, 2), timeline_(timeline) {}
Network::~Network() = default;

absl::StatusOr<std::unique_ptr<Fabric>> Network::CreateFabric(Process& process,
                                                              const FabricOptions& options) {
  Node& node = *nodes_.emplace_back(std::make_unique<Node>());
  node.process = &process;
  node.host = process.options().host;
  node.endpoint = absl::StrCat("process", process.options().number, "/", nodes_.size());
  endpoints_[node.endpoint] = &node;
  return MakeSimFabric(*this, process, node, options.max_message_bytes);
}

Node* Network::Find(const std::string& endpoint) {
  const auto found = endpoints_.find(endpoint);
  return found == endpoints_.end() ? nullptr : found->second;
}

absl::Span<std::byte> Network::Scratch(int world, size_t max_message_bytes, int peer) {
  const size_t stride = Aligned(kMessageHeaderBytes + max_message_bytes);
  if (scratch_.size() < stride * world + kMessageAlign) scratch_.resize(stride * world + kMessageAlign);
  std::byte* const base = scratch_.data() +
                          (kMessageAlign - reinterpret_cast<uintptr_t>(scratch_.data()) % kMessageAlign) % kMessageAlign;
  return {base + stride * peer, stride};
}

bool Network::Separated(int host_a, int host_b) const {
  if (timeline_.now() >= heals_) return false;
  if (!from_coordinator_ && (host_a < 0 || host_b < 0)) return false;
  const auto cut_off = [&](int host) {
    return std::find(cut_off_.begin(), cut_off_.end(), host) != cut_off_.end();
  };
  return cut_off(host_a) != cut_off(host_b);
}

absl::Duration Network::Delay(int from_host, int to_host) {
  const absl::Duration delay = random_.Between(options_.least_delay, options_.most_delay);
  return Separated(from_host, to_host) ? heals_ - timeline_.now() + delay : delay;
}

absl::Time Network::Arrival(Node& from, Node& to, size_t bytes) {
  if (&from == &to) return timeline_.now();
  const absl::Duration delay = Delay(from.host, to.host);
  if (options_.bytes_per_s <= 0) return timeline_.now() + delay;
  const absl::Duration wire = absl::Seconds(static_cast<double>(bytes) / options_.bytes_per_s);
  from.egress_free = std::max(from.egress_free, timeline_.now()) + wire;
  to.ingress_free = std::max(to.ingress_free, from.egress_free + delay) + wire;
  return to.ingress_free;
}

std::vector<int64_t> Network::ReceivedBytes() const {
  std::vector<int64_t> bytes;
  for (const std::unique_ptr<Node>& node : nodes_) bytes.push_back(node->received_bytes);
  return bytes;
}

void Network::Partition(std::vector<int> cut_off, bool from_coordinator, absl::Time heals) {
  cut_off_ = std::move(cut_off);
  from_coordinator_ = from_coordinator;
  heals_ = heals;
}

void Network::Break(Node& node, int peer, bool loud, absl::Duration notice) {
  if (node.links[peer] != LinkState::kWhole) return;
  node.links[peer] = LinkState::kBroken;
  if (!loud) return;
  const Epoch epoch = node.entered;
  timeline_.After(notice, [&node, peer, epoch] {
    if (node.process == nullptr || node.entered != epoch) return;
    node.links[peer] = LinkState::kNoticed;
    if (!node.endpoints.empty() && node.peers[peer] == nullptr) {
      node.failed = ConnectError(node.hello, node.endpoints, {RankId(peer)},
                                 absl::UnavailableError("it is gone"));
    }
    node.Recount();
    node.Wake();
  });
}

void Network::Died(const Process& process) {
  const bool loud = random_.Chance(options_.loud_deaths_percent);
  for (const std::unique_ptr<Node>& node : nodes_) {
    if (node->process != &process) continue;
    node->process = nullptr;
    endpoints_.erase(node->endpoint);
    for (const std::unique_ptr<Node>& other : nodes_) {
      if (node->roster == 0) break;  // it never was anybody's peer
      if (other->process == nullptr || other->entered != node->entered) continue;
      if (other->roster != node->roster) continue;
      Break(*other, node->rank.value(), loud, Delay(node->host, other->host));
    }
    node->roster = 0;
    node->inbox.clear();
    node->peers.clear();
  }
}

// --- Links that are cut ---

void Network::Lose(Node& from, Node& to, bool loud) {
  if (from.roster == 0 || from.entered != to.entered || from.roster != to.roster) return;
  std::erase_if(to.inbox[from.rank.value()],
                [&](const Message& message) { return message.arrival > timeline_.now(); });
  if (from.peers[to.rank.value()] != nullptr) {
    Break(from, to.rank.value(), loud,
          random_.Between(absl::Microseconds(50), absl::Milliseconds(20)));
  }
  to.Recount();
}

void Network::Raise(const Barrier& barrier) {
  if (barrier.heals <= timeline_.now()) return;
  barriers_.push_back(barrier);
  if (barrier.heals == absl::InfiniteFuture()) return;
  timeline_.At(barrier.heals, [this] {
    std::erase_if(barriers_, [&](const Barrier& other) { return other.heals <= timeline_.now(); });
    MeetAll();
  });
}

void Network::Cut(const Process& a, const Process& b, Loss loss, absl::Time heals) {
  const bool loud = loss == Loss::kNoticed;
  for (const std::unique_ptr<Node>& one : nodes_) {
    if (one->process != &a || loss == Loss::kSwallowed) continue;
    for (const std::unique_ptr<Node>& two : nodes_) {
      if (two->process != &b) continue;
      Lose(*one, *two, loud);
      if (loss != Loss::kOneWay) Lose(*two, *one, loud);
    }
  }
  Raise({&a, &b, loss, heals});
  if (loss != Loss::kOneWay) Raise({&b, &a, loss, heals});
}

void Network::CutInbound(const Process& process, Loss loss, absl::Time heals) {
  const bool loud = loss == Loss::kNoticed;
  for (const std::unique_ptr<Node>& node : nodes_) {
    if (node->process != &process) continue;
    for (const std::unique_ptr<Node>& other : nodes_) {
      if (other->process != nullptr && other != node) Lose(*other, *node, loud);
    }
  }
  Raise({nullptr, &process, loss, heals});
}

void Network::HealLinks() {
  barriers_.clear();
  MeetAll();
}

const Network::Barrier* Network::Between(const Node& from, const Node& to) const {
  for (const Barrier& barrier : barriers_) {
    const bool from_it = barrier.from == nullptr || barrier.from == from.process;
    if (from_it && barrier.to == to.process) return &barrier;
  }
  return nullptr;
}

bool Network::Swallowed(const Node& from, const Node& to) const {
  const Barrier* const barrier = Between(from, to);
  return barrier != nullptr && barrier->loss == Loss::kSwallowed;
}

std::vector<RankId> Network::Refusing(const Node& node) const {
  std::vector<RankId> refusing;
  if (barriers_.empty()) return refusing;
  for (size_t r = 0; r < node.peers.size(); ++r) {
    if (!node.present[r] || node.peers[r] != nullptr) continue;
    const auto peer = endpoints_.find(node.endpoints[r]);
    if (peer == endpoints_.end()) continue;
    const Barrier* const barrier = Between(node, *peer->second);
    if (barrier != nullptr && barrier->loss == Loss::kNoticed) refusing.push_back(RankId(static_cast<int32_t>(r)));
  }
  return refusing;
}

void Network::Meet(Node& a, Node& b) {
  if (a.roster == 0 || a.entered != b.entered || a.roster != b.roster) return;
  if (a.peers[b.rank.value()] != nullptr) return;
  // A connection is dialled in both directions.
  for (const Barrier* const barrier : {Between(a, b), Between(b, a)}) {
    if (barrier != nullptr && barrier->loss != Loss::kSwallowed) return;
  }
  const absl::Time met = timeline_.now() + Delay(a.host, b.host) + Delay(b.host, a.host);
  const auto note = [&](Node& node, Node& other) {
    const int rank = other.rank.value();
    if (node.peers[rank] != nullptr) return;
    node.peers[rank] = &other;
    node.meets[rank] = met;
    node.met = std::max(node.met, met);
    if (--node.missing == 0) node.WakeAt(node.met);
  };
  note(a, b);
  note(b, a);
}

void Network::MeetAll() {
  for (const std::unique_ptr<Node>& a : nodes_) {
    if (a->process == nullptr) continue;
    for (const std::string& endpoint : a->endpoints) {
      Node* const b = Find(endpoint);
      if (b != nullptr && b != a.get()) Meet(*a, *b);
    }
  }
}

}  // namespace shoal::sim
