// SPDX-License-Identifier: Apache-2.0
// Who is told of which event. All decisions are elsewhere: membership (who belongs to the unit),
// admission (who gets in), step_planner and scheduler (who computes what), step_results (what
// counts), endings (what is over).
#include "coordinator/core/core.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "coordinator/core/admission.h"
#include "coordinator/core/endings.h"
#include "coordinator/core/membership.h"
#include "coordinator/core/serving_state.h"
#include "coordinator/core/step_planner.h"
#include "coordinator/core/step_results.h"
#include "engine/base/check.h"

namespace shoal {
namespace {

// With these a worker speaks of its peers or of the epoch; with any other it speaks of itself.
bool BlamesOthers(const absl::Status& status) {
  return absl::IsDeadlineExceeded(status) || absl::IsUnavailable(status) ||
         absl::IsAborted(status) || absl::IsCancelled(status);
}

std::shared_ptr<const ExpertPlacement> PlacementOf(const CoreConfig& config) {
  if (config.placement != nullptr) return config.placement;
  auto contiguous = ExpertPlacement::Contiguous(config.workers, config.n_routed_experts);
  SHOAL_CHECK(contiguous.ok());  // by Validate
  return std::make_shared<const ExpertPlacement>(*std::move(contiguous));
}

std::vector<int> ExpertsByRank(const ExpertPlacement& placement) {
  std::vector<int> experts(placement.world_size(), 0);
  for (int layer = 0; layer < placement.layers(); ++layer) {
    for (int expert = 0; expert < placement.n_routed_experts(layer); ++expert) {
      for (const RankId rank : placement.Holders(layer, ExpertId(expert))) ++experts[rank.value()];
    }
  }
  return experts;
}

// More running sequences than rows would leave some of them without a row.
CoreConfig Consistent(CoreConfig config) {
  config.max_running_sequences = std::min(config.max_running_sequences, config.max_batch_rows);
  return config;
}

class CoordinatorCore final : public Core {
 public:
  CoordinatorCore(const CoreConfig& config, std::shared_ptr<const ExpertPlacement> placement)
      : experts_by_rank_(ExpertsByRank(*placement)),
        membership_(config, std::move(placement)),
        state_(Consistent(config)) {}

  void Step(const Event& event, absl::Time now, std::vector<Command>& commands) override {
    state_.block_lifetimes.now = now;
    std::visit([&](const auto& e) { On(e, now, commands); }, event);
    planner_.PlanSteps(state_, now, commands);
    ContinueDrain(state_, now, commands);
  }

  ClusterSnapshot Snapshot(absl::Time now) const override;

 private:
  void On(const RequestArrived& event, absl::Time now, std::vector<Command>& commands) {
    Arrive(state_, event.request, now, commands);
  }
  void On(const RequestCancelled& event, absl::Time now, std::vector<Command>& commands) {
    Cancel(state_, event, now, commands);
  }
  void On(const WorkerJoined& event, absl::Time now, std::vector<Command>& commands) {
    membership_.Joined(event, now, commands);
  }
  void On(const WorkerReady& event, absl::Time now, std::vector<Command>& commands) {
    membership_.Answered(event.worker, now);
    if (membership_.Ready(event.worker, event.epoch)) BeginServing(now, commands);
  }
  void On(const WorkerLost& event, absl::Time now, std::vector<Command>& commands) {
    InterruptIf(membership_.Lost(event.worker, event.why, now, commands), now, commands);
  }
  void On(const StepDone& event, absl::Time now, std::vector<Command>& commands);
  void On(const Heartbeat& event, absl::Time now, std::vector<Command>&) {
    membership_.Heard(event.worker, now);
  }
  void On(const Tick&, absl::Time now, std::vector<Command>& commands);
  void On(const DrainStarted&, absl::Time, std::vector<Command>&) { state_.draining = true; }

  void BeginServing(absl::Time now, std::vector<Command>& commands);
  void InterruptIf(const std::optional<absl::Status>& what, absl::Time now,
                   std::vector<Command>& commands) {
    if (what.has_value()) Interrupt(state_, *what, now, commands);
  }
  WorkerSnapshot SnapshotOf(RankId rank, const Member& member, absl::Time now) const;

  const std::vector<int> experts_by_rank_;
  Membership membership_;
  ServingState state_;
  StepPlanner planner_;
};

void CoordinatorCore::BeginServing(absl::Time now, std::vector<Command>& commands) {
  std::vector<RankBatch> ranks;
  for (int r = 0; r < state_.config.workers; ++r) {
    const Member& member = *membership_.At(RankId(r));
    // A worker that stays still has in its cache what committed steps wrote.
    if (!state_.ranks.empty() && state_.ranks[r].worker == member.id) {
      ranks.push_back(std::move(state_.ranks[r]));
    } else {
      ranks.emplace_back(member.id, member.cache_blocks, state_.config.block_tokens);
    }
  }
  state_.ranks = std::move(ranks);
  for (RankBatch& rank : state_.ranks) rank.blocks.CountLifetimes(&state_.block_lifetimes);
  state_.epoch = membership_.epoch();
  state_.serving = true;
  EndOversized(state_, now, commands);
}

void CoordinatorCore::On(const StepDone& event, absl::Time now, std::vector<Command>& commands) {
  membership_.Answered(event.worker, now);
  const Member* member = membership_.Find(event.worker);
  if (member == nullptr || !member->rank.has_value() || !state_.serving ||
      event.epoch != state_.epoch) {
    return;
  }
  absl::Status status = event.status;
  bool blames_others = BlamesOthers(status);
  if (status.ok()) {
    status = FileResults(state_, *member->rank, event);
    if (status.ok()) return CommitSteps(state_, now, commands);
    blames_others = false;
  }
  const absl::Status what = absl::UnavailableError(
      absl::StrCat("step ", event.step.value(), " failed on ", membership_.Describe(event.worker),
                   ": ", status.ToString()));
  Interrupt(state_, what, now, commands);
  if (blames_others) {
    membership_.Reassign(now, commands);
    membership_.Answered(event.worker, now);  // in the new epoch: its failure was an answer
  } else {
    membership_.Evict({{event.worker, status}}, now, commands);
  }
}

void CoordinatorCore::On(const Tick&, absl::Time now, std::vector<Command>& commands) {
  InterruptIf(membership_.Tick(now, commands), now, commands);
  std::vector<Membership::Eviction> overdue;
  for (const RankId rank : OverdueRanks(state_, now)) {
    overdue.push_back({membership_.At(rank)->id,
                       absl::DeadlineExceededError(absl::StrCat(
                           "no report of step ", state_.in_flight.front().id.value(), " within ",
                           absl::FormatDuration(now - state_.in_flight.front().began)))});
  }
  InterruptIf(membership_.Evict(overdue, now, commands), now, commands);
  ExpireDeadlines(state_, now, commands);
}

WorkerSnapshot CoordinatorCore::SnapshotOf(RankId rank, const Member& member,
                                           absl::Time now) const {
  WorkerSnapshot snapshot;
  snapshot.worker = member.id;
  snapshot.rank = rank;
  snapshot.pid = member.pid;
  snapshot.host = member.host;
  snapshot.experts = experts_by_rank_[rank.value()];
  snapshot.blocks_total = member.cache_blocks;
  const Member* present = membership_.At(rank);
  if (present == nullptr) {
    snapshot.state = "gone";
  } else if (!state_.serving) {
    snapshot.state = "loading";
  } else {
    snapshot.state = state_.draining ? "draining" : "serving";
    const RankBatch& batch = state_.ranks[rank.value()];
    snapshot.blocks_used = batch.blocks.used();
    snapshot.running_sequences = static_cast<int>(batch.running.size());
    snapshot.tokens_per_s = batch.committed_tokens.PerSecond(now);
  }
  return snapshot;
}

ClusterSnapshot CoordinatorCore::Snapshot(absl::Time now) const {
  ClusterSnapshot snapshot;
  snapshot.epoch = membership_.epoch();
  for (int r = 0; r < state_.config.workers; ++r) {
    if (const Member* member = membership_.LastKnownAt(RankId(r))) {
      snapshot.workers.push_back(SnapshotOf(RankId(r), *member, now));
    }
  }
  snapshot.requests_waiting = state_.waiting_requests;
  snapshot.requests_running =
      static_cast<int64_t>(state_.requests.size()) - state_.waiting_requests;
  const ServingCounters& counters = state_.counters;
  snapshot.prefix_cache_queries = counters.prefix_cache_queries;
  snapshot.prefix_cache_hits = counters.prefix_cache_hits;
  snapshot.preemptions = counters.preemptions;
  snapshot.prompt_tokens = counters.prompt_tokens;
  snapshot.generation_tokens = counters.generation_tokens;
  snapshot.steps = counters.steps;
  snapshot.block_lifetimes = state_.block_lifetimes;
  snapshot.serving = state_.serving;
  return snapshot;
}

}  // namespace

std::unique_ptr<Core> Core::Create(const CoreConfig& config) {
  SHOAL_CHECK(Validate(config).ok());
  return std::make_unique<CoordinatorCore>(config, PlacementOf(config));
}

}  // namespace shoal
