// SPDX-License-Identifier: Apache-2.0
#include "coordinator/sim/node.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "comm/exchange_errors.h"

namespace shoal::sim {

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
  MissingPeers missing;
  absl::Status ended;
  if (cancelled) ended = InExchange(tag, rank, absl::AbortedError("cancelled"));
  for (size_t source = 0; source < present.size(); ++source) {
    if (!present[source]) continue;
    const RankId id(static_cast<int32_t>(source));
    if (!inbox[source].empty()) {
      const Message& front = inbox[source].front();
      if (front.epoch <= tag.epoch && front.arrival <= now) continue;
      if (front.epoch > tag.epoch) {
        ended.Update(EpochError(tag, rank, front.epoch, absl::StrCat("rank ", source)));
      }
    } else if (links[source] == LinkState::kNoticed) {
      ended.Update(GoneError(tag, rank, id, "is gone"));
    }
    missing.push_back({id, 0});
  }
  return ended.ok() ? TimeoutError(tag, rank, missing) : WaitEnded(ended, missing);
}

}  // namespace shoal::sim
