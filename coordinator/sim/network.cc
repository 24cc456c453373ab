// SPDX-License-Identifier: Apache-2.0
#include "coordinator/sim/network.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <new>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "comm/connect.h"
#include "comm/exchange_errors.h"
#include "comm/hello.h"
#include "comm/message_header.h"
#include "coordinator/sim/process.h"
#include "coordinator/sim/random.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"

namespace shoal::sim {
namespace {

constexpr size_t kAlign = 64;
constexpr int kPhases = 2;
// So long a worker dials those who refuse, as comm/grpc does.
constexpr absl::Duration kRefusedPatience = absl::Milliseconds(500);

size_t Aligned(size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

// Messages' memory is used again by messages: millions of them in pieces would make the heap, and with it the
// core that is being measured, slower than any coordinator's.
class BytePool {
 public:
  ~BytePool() {
    for (std::vector<std::byte*>& free : free_) {
      for (std::byte* bytes : free) ::operator delete(bytes, std::align_val_t(kAlign));
    }
  }
  std::byte* Take(int size_class) {
    std::vector<std::byte*>& free = free_[size_class];
    if (free.empty()) {
      return static_cast<std::byte*>(
          ::operator new(size_t{1} << size_class, std::align_val_t(kAlign)));
    }
    std::byte* const bytes = free.back();
    free.pop_back();
    return bytes;
  }
  void Give(std::byte* bytes, int size_class) { free_[size_class].push_back(bytes); }

 private:
  std::array<std::vector<std::byte*>, 40> free_;  // by the logarithm of their size
};
thread_local BytePool byte_pool;

struct GiveBack {
  int size_class = 0;
  void operator()(std::byte* bytes) const { byte_pool.Give(bytes, size_class); }
};
using AlignedBytes = std::unique_ptr<std::byte, GiveBack>;

AlignedBytes NewBytes(size_t size) {
  const int size_class = std::bit_width(std::max<size_t>(size, 128) - 1);
  return AlignedBytes(byte_pool.Take(size_class), GiveBack{size_class});
}

// A message under way or arrived: header and rows, aligned as the port promises.
struct Message {
  AlignedBytes bytes;
  size_t size = 0;
  Epoch epoch;
  absl::Time arrival;

  absl::Span<const std::byte> all() const { return {bytes.get(), size}; }
  absl::Span<const std::byte> rows() const { return all().subspan(kMessageHeaderBytes); }
};

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

enum class LinkState : uint8_t {
  kWhole,
  kBroken,   // and not noticed here
  kNoticed,  // a wait for this peer fails
};

}  // namespace

struct Node {
  Process* process = nullptr;  // null: it is over
  std::string endpoint;
  int host = 0;

  // Connecting.
  Epoch entered;             // the epoch for which it connects, or is connected
  uint64_t roster = 0;  // a digest of the epoch's endpoints; 0: it never had one, or has given up
  Hello hello;          // what it says of itself when it connects
  absl::Span<const std::string> endpoints;  // of the roster, while it connects
  RankId rank;
  std::vector<Node*> peers;  // by rank; null: absent, or not met yet
  std::vector<absl::Time> meets;  // by rank: when it meets them
  int missing = 0;           // peers not met
  absl::Time met;            // when the last of them is met
  Epoch abandoned;           // connects of earlier epochs are pointless
  absl::Status failed;       // a peer cannot be met

  // Exchanging.
  Epoch epoch;
  std::vector<bool> present;
  std::vector<LinkState> links;              // by source, of this epoch
  std::vector<std::vector<Message>> inbox;   // by source, in order
  std::array<std::vector<Message>, kPhases> held;  // by source: what Wait handed out
  std::vector<absl::Time> last_arrival;      // by source
  absl::Time egress_free;                    // with limited bandwidth
  absl::Time ingress_free;
  int64_t received_bytes = 0;
  bool cancelled = false;

  // The wait in progress.
  std::optional<ExchangeTag> awaiting;
  int awaited = 0;        // sources whose message is not under way yet
  absl::Time all_arrive;  // the last of those that are
  bool hopeless = false;  // some of them will never come

  void Wake() {
    if (process != nullptr) process->Wake();
  }
  void WakeAt(absl::Time time) {
    if (process != nullptr) process->WakeAt(time);
  }
  // Counts anew what the wait in progress still lacks.
  void Recount();
  void Take(int source, Message message);
  absl::Status WhyMissing(const ExchangeTag& tag, absl::Time now) const;
};

void Node::Recount() {
  if (!awaiting.has_value()) return;
  awaited = 0;
  hopeless = cancelled;
  all_arrive = absl::InfinitePast();
  for (size_t source = 0; source < present.size(); ++source) {
    if (!present[source]) continue;
    if (!inbox[source].empty()) {
      const Message& front = inbox[source].front();
      all_arrive = std::max(all_arrive, front.arrival);
      hopeless = hopeless || front.epoch > awaiting->epoch;
    } else {
      ++awaited;
      hopeless = hopeless || links[source] == LinkState::kNoticed;
    }
  }
}

void Node::Take(int source, Message message) {
  // What is older than the reader's epoch is dropped, as by MPI's inlet; what is ahead waits.
  if (message.epoch < epoch) return;
  if (inbox.size() <= static_cast<size_t>(source)) return;  // it has never connected
  message.arrival = std::max(message.arrival, last_arrival[source]);
  received_bytes += static_cast<int64_t>(message.size);
  last_arrival[source] = message.arrival;
  const absl::Time arrival = message.arrival;
  const bool ahead = message.epoch > epoch;
  std::vector<Message>& queue = inbox[source];
  queue.push_back(std::move(message));
  if (!awaiting.has_value() || queue.size() > 1 || !present[source]) return;
  --awaited;
  hopeless = hopeless || ahead;
  all_arrive = std::max(all_arrive, arrival);
  if (awaited == 0 || hopeless) WakeAt(all_arrive);
}

absl::Status Node::WhyMissing(const ExchangeTag& tag, absl::Time now) const {
  if (cancelled) return InExchange(tag, rank, absl::AbortedError("cancelled"));
  MissingPeers missing;
  for (size_t source = 0; source < present.size(); ++source) {
    if (!present[source]) continue;
    const RankId id(static_cast<int32_t>(source));
    if (!inbox[source].empty()) {
      const Message& front = inbox[source].front();
      if (front.epoch > tag.epoch) {
        return EpochError(tag, rank, front.epoch, absl::StrCat("rank ", source));
      }
      if (front.arrival > now) missing.push_back({id, 0});
    } else if (links[source] == LinkState::kNoticed) {
      return InExchange(tag, rank,
                        absl::UnavailableError(absl::StrCat("rank ", source, " is gone")));
    } else {
      missing.push_back({id, 0});
    }
  }
  return TimeoutError(tag, rank, missing);
}

namespace {

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
    SHOAL_ASSIGN_OR_RETURN(const MessageHeader header,
                           ParseMessageHeader(held[source].all(), max_message_bytes_));
    if (absl::Status status = CheckMessage(header, RankId(source), tag); !status.ok()) {
      return InExchange(tag, rank_, status);
    }
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
    exchange_ = std::make_unique<SimExchange>(network_, process_, node_, rank,
                                              static_cast<int>(endpoints.size()),
                                              max_message_bytes_);
  }
  return exchange_.get();
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
  return std::make_unique<SimFabric>(*this, process, node, options.max_message_bytes);
}

Node* Network::Find(const std::string& endpoint) {
  const auto found = endpoints_.find(endpoint);
  return found == endpoints_.end() ? nullptr : found->second;
}

absl::Span<std::byte> Network::Scratch(int world, size_t max_message_bytes, int peer) {
  const size_t stride = Aligned(kMessageHeaderBytes + max_message_bytes);
  if (scratch_.size() < stride * world + kAlign) scratch_.resize(stride * world + kAlign);
  std::byte* const base = scratch_.data() +
                          (kAlign - reinterpret_cast<uintptr_t>(scratch_.data()) % kAlign) % kAlign;
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
    if (one->process != &a) continue;
    for (const std::unique_ptr<Node>& two : nodes_) {
      if (two->process != &b) continue;
      Lose(*one, *two, loud);
      if (loss != Loss::kOneWay) Lose(*two, *one, loud);
    }
  }
  Raise({&a, &b, loud, heals});
  if (loss != Loss::kOneWay) Raise({&b, &a, loud, heals});
}

void Network::CutInbound(const Process& process, Loss loss, absl::Time heals) {
  const bool loud = loss == Loss::kNoticed;
  for (const std::unique_ptr<Node>& node : nodes_) {
    if (node->process != &process) continue;
    for (const std::unique_ptr<Node>& other : nodes_) {
      if (other->process != nullptr && other != node) Lose(*other, *node, loud);
    }
  }
  Raise({nullptr, &process, loud, heals});
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

std::vector<RankId> Network::Refusing(const Node& node) const {
  std::vector<RankId> refusing;
  if (barriers_.empty()) return refusing;
  for (size_t r = 0; r < node.peers.size(); ++r) {
    if (!node.present[r] || node.peers[r] != nullptr) continue;
    const auto peer = endpoints_.find(node.endpoints[r]);
    if (peer == endpoints_.end()) continue;
    const Barrier* const barrier = Between(node, *peer->second);
    if (barrier != nullptr && barrier->loud) refusing.push_back(RankId(static_cast<int32_t>(r)));
  }
  return refusing;
}

void Network::Meet(Node& a, Node& b) {
  if (a.roster == 0 || a.entered != b.entered || a.roster != b.roster) return;
  if (a.peers[b.rank.value()] != nullptr) return;
  // A connection is dialled in both directions.
  if (Between(a, b) != nullptr || Between(b, a) != nullptr) return;
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
