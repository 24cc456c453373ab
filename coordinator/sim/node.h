// SPDX-License-Identifier: Apache-2.0
// One end of a transport, as the simulated network sees it: for whom it waits, what has arrived,
// what is under way to it. A worker that starts anew is another node.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "comm/hello.h"
#include "comm/message_header.h"
#include "coordinator/sim/message.h"
#include "coordinator/sim/process.h"
#include "engine/base/ids.h"

namespace shoal::sim {

inline constexpr int kPhases = 2;

enum class LinkState : uint8_t {
  kWhole,
  kBroken,   // and not noticed here
  kNoticed,  // a wait for this peer fails
};

struct Node {
  Process* process = nullptr;  // null: it is over
  std::string endpoint;
  int host = 0;

  // Connecting.
  Epoch entered;        // the epoch for which it connects, or is connected
  uint64_t roster = 0;  // a digest of the epoch's endpoints; 0: it never had one, or has given up
  Hello hello;          // what it says of itself when it connects
  absl::Span<const std::string> endpoints;  // of the roster, while it connects
  RankId rank;
  std::vector<Node*> peers;       // by rank; null: absent, or not met yet
  std::vector<absl::Time> meets;  // by rank: when it meets them
  int missing = 0;                // peers not met
  absl::Time met;                 // when the last of them is met
  Epoch abandoned;                // connects of earlier epochs are pointless
  absl::Status failed;            // a peer cannot be met

  // Exchanging.
  Epoch epoch;
  std::vector<bool> present;
  std::vector<LinkState> links;                    // by source, of this epoch
  std::vector<std::vector<Message>> inbox;         // by source, in order
  std::array<std::vector<Message>, kPhases> held;  // by source: what Wait handed out
  std::vector<absl::Time> last_arrival;            // by source
  absl::Time egress_free;                          // with limited bandwidth
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

}  // namespace shoal::sim
