// SPDX-License-Identifier: Apache-2.0
// What lies between simulated workers: links that delay, break and are cut off. Messages of one link keep
// their order; links do not among each other. Nothing is taken out of a link when an epoch ends, as with
// MPI: what is old still arrives, and must not be heard.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "comm/fabric.h"
#include "coordinator/sim/random.h"
#include "coordinator/sim/timeline.h"

namespace shoal::sim {

class Process;
struct Node;

struct NetworkOptions {
  absl::Duration least_delay = absl::Microseconds(10);  // one way
  absl::Duration most_delay = absl::Microseconds(200);
  // 0: as fast as the delay. Else every worker sends and receives so many bytes per second, and a
  // message waits for those before it at both ends.
  double bytes_per_s = 0;
  // How a dead peer is noticed: at once (its socket closes), or by nobody (its host is gone).
  int loud_deaths_percent = 80;
};

class Network {
 public:
  Network(const NetworkOptions& options, uint64_t seed, Timeline& timeline);
  ~Network();

  absl::StatusOr<std::unique_ptr<Fabric>> CreateFabric(Process& process,
                                                       const FabricOptions& options);

  // --- Faults ---

  // What the process has sent still arrives; its peers notice, or not.
  void Died(const Process& process);
  // Breaks the link between two workers: what is under way, and what they send in this epoch, is
  // lost. Until `heals` they cannot connect to each other either.
  enum class Loss : uint8_t {
    kNoticed,  // soon, by both; who dials is refused
    kSilent,   // by nobody; who dials hears nothing
    kOneWay,   // as kSilent, and only what `a` sends is lost
    kSwallowed,  // by nobody; they connect, also again, and none of their messages arrives
  };
  void Cut(const Process& a, const Process& b, Loss loss, absl::Time heals);
  // Does that to all that is sent to this one, by whomever.
  void CutInbound(const Process& process, Loss loss, absl::Time heals);
  // All links can be connected again.
  void HealLinks();
  // Messages between the hosts of `cut_off` and all others arrive only after `heals`. The
  // coordinator may be one of the others, or reach everybody.
  void Partition(std::vector<int> cut_off, bool from_coordinator, absl::Time heals);

  // How long a message takes between these hosts (-1: the coordinator's) if sent now.
  absl::Duration Delay(int from_host, int to_host);

  std::vector<int64_t> ReceivedBytes() const;

  Timeline& timeline() { return timeline_; }
  Node* Find(const std::string& endpoint);
  // Memory to write messages to, shared by all: what is written is posted before anybody else moves.
  absl::Span<std::byte> Scratch(int world, size_t max_message_bytes, int peer);
  const NetworkOptions& options() const { return options_; }
  // When a message of so many bytes, sent now, arrives.
  absl::Time Arrival(Node& from, Node& to, size_t bytes);
  // They connect to each other, if both are connecting, to the same roster, and nothing is cut
  // between them.
  void Meet(Node& a, Node& b);
  // What `from` sends to `to` does not arrive, though they are connected.
  bool Swallowed(const Node& from, const Node& to) const;
  // The peers that it has not met yet, whom it dials and who refuse.
  std::vector<RankId> Refusing(const Node& node) const;

 private:
  // What lies between two workers, in one direction.
  struct Barrier {
    const Process* from;  // null: everybody
    const Process* to;
    Loss loss;
    absl::Time heals;
  };

  bool Separated(int host_a, int host_b) const;
  void Break(Node& node, int peer, bool loud, absl::Duration notice);
  // Loses what `from` has sent to `to`, and sends in this epoch, if they are peers.
  void Lose(Node& from, Node& to, bool loud);
  const Barrier* Between(const Node& from, const Node& to) const;
  void Raise(const Barrier& barrier);
  // Whoever is connecting tries again.
  void MeetAll();

  const NetworkOptions options_;
  Random random_;
  Timeline& timeline_;
  std::vector<std::unique_ptr<Node>> nodes_;  // also of the dead: events may still speak of them
  std::map<std::string, Node*> endpoints_;
  std::vector<int> cut_off_;
  bool from_coordinator_ = false;
  absl::Time heals_ = absl::InfinitePast();
  std::vector<Barrier> barriers_;
  std::vector<std::byte> scratch_;
};

}  // namespace shoal::sim
