// SPDX-License-Identifier: Apache-2.0
#include "coordinator/core/cluster_view.h"

#include <algorithm>

#include "coordinator/core/backoff.h"

namespace shoal {
namespace {

DeathCost CostOf(const ServingState& state, const Redundancy& redundancy, RankId rank) {
  DeathCost cost;
  for (const Sequence* sequence : state.ranks[rank.value()].running) {
    ++cost.sequences;
    cost.tokens += sequence->known_tokens();
  }
  const Redundancy::Rank& left = redundancy.ranks[rank.value()];
  cost.experts_left_with_one = left.left_with_one;
  cost.experts_lost = left.left_with_none;
  const auto present = std::count_if(state.ranks.begin(), state.ranks.end(),
                                     [](const RankBatch& other) { return other.present; });
  cost.pauses = cost.experts_lost > 0 || present == 1;
  return cost;
}

WorkerSnapshot ViewWorker(const ServingState& state, const Membership& membership, RankId rank,
                          const Member& last, absl::Time now) {
  WorkerSnapshot view;
  const Member* here = membership.roster().At(rank);
  const Member& member = here == nullptr ? last : *here;
  view.worker = member.id;
  view.rank = rank;
  view.pid = member.pid;
  view.host = member.host;
  view.blocks_total = member.cache_blocks;
  const Redundancy& redundancy = membership.redundancy();
  if (!redundancy.ranks.empty()) view.experts = redundancy.ranks[rank.value()].experts;
  if (here == nullptr) {
    view.state = "gone";
  } else if (!member.loaded) {
    view.state = "loading";
  } else if (member.leave.ongoing()) {
    view.state = "left out";
  } else if (!state.serving || !member.in_epoch) {
    view.state = "joining";
  } else {
    view.state = state.draining ? "draining" : "serving";
    const RankBatch& batch = state.ranks[rank.value()];
    view.blocks_used = batch.blocks.used();
    view.running_sequences = static_cast<int>(batch.running.size());
    view.tokens_per_s = batch.committed_tokens.PerSecond(now);
    view.death = CostOf(state, redundancy, rank);
  }
  return view;
}

}  // namespace

ClusterSnapshot ViewCluster(const ServingState& state, const Membership& membership,
                            const RecoveryLog& log, const WaitingMatrix& waiting,
                            const ExpertTokenCounts& expert_tokens, absl::Time now) {
  ClusterSnapshot view;
  view.epoch = membership.epoch();
  for (int r = 0; r < state.config.workers; ++r) {
    if (const Member* last = membership.roster().LastKnownAt(RankId(r))) {
      view.workers.push_back(ViewWorker(state, membership, RankId(r), *last, now));
    }
  }
  view.requests_waiting = state.waiting_requests + RequestsBackingOff(state);
  view.requests_running = static_cast<int64_t>(state.requests.size()) - view.requests_waiting;
  const ServingCounters& counters = state.counters;
  view.prefix_cache_queries = counters.prefix_cache_queries;
  view.prefix_cache_hits = counters.prefix_cache_hits;
  view.preemptions = counters.preemptions;
  view.prompt_tokens = counters.prompt_tokens;
  view.generation_tokens = counters.generation_tokens;
  view.steps = counters.steps;
  view.block_lifetimes = state.block_lifetimes;
  view.formed = membership.formed();
  view.serving = state.serving ||
                 (membership.connecting() && now - membership.connecting_since() < kBriefConnect);
  view.paused = membership.paused();
  view.least_holders = membership.redundancy().least_holders;
  view.most_holders = membership.redundancy().most_holders;
  view.least_hosts = membership.redundancy().least_hosts;
  view.recoveries = log.recoveries();
  view.waiting = waiting.Snapshot();
  view.expert_tokens = expert_tokens.layers();
  return view;
}

}  // namespace shoal
