// SPDX-License-Identifier: Apache-2.0
// Who is told of which event. All decisions are elsewhere: membership (who belongs to the unit),
// epoch_change (what that does to what runs), admission (who gets in), step_planner and scheduler
// (who computes what), step_results (what counts), endings (what is over).
#include "coordinator/core/core.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "coordinator/core/admission.h"
#include "coordinator/core/backoff.h"
#include "coordinator/core/cluster_view.h"
#include "coordinator/core/endings.h"
#include "coordinator/core/epoch_change.h"
#include "coordinator/core/expert_token_counts.h"
#include "coordinator/core/membership.h"
#include "coordinator/core/recovery_log.h"
#include "coordinator/core/serving_state.h"
#include "coordinator/core/step_planner.h"
#include "coordinator/core/step_results.h"
#include "coordinator/core/waiting_matrix.h"
#include "engine/base/check.h"

namespace shoal {
namespace {

// With these a worker speaks of its peers or of the epoch; with any other it speaks of itself.
bool BlamesOthers(const absl::Status& status) {
  return absl::IsDeadlineExceeded(status) || absl::IsUnavailable(status) ||
         absl::IsAborted(status) || absl::IsCancelled(status);
}

// More running sequences than rows would leave some of them without a row.
CoreConfig Consistent(CoreConfig config) {
  config.max_running_sequences = std::min(config.max_running_sequences, config.max_batch_rows);
  return config;
}

class CoordinatorCore final : public Core {
 public:
  explicit CoordinatorCore(const CoreConfig& config)
      : membership_(config),
        state_(Consistent(config)),
        waiting_(config.workers, config.step_timeout),
        expert_tokens_(config.n_routed_experts) {}

  void Step(const Event& event, absl::Time now, std::vector<Command>& commands) override {
    state_.block_lifetimes.now = now;
    std::visit([&](const auto& e) { On(e, now, commands); }, event);
    if (state_.serving && membership_.has_entrants()) {
      // They enter between two steps: what is in flight ends, nothing more is planned.
      if (state_.in_flight.empty()) LetEnter(now, commands);
    } else {
      planner_.PlanSteps(state_, now, commands);
    }
    ContinueDrain(state_, now, commands);
  }

  ClusterSnapshot Snapshot(absl::Time now) const override {
    return ViewCluster(state_, membership_, log_, waiting_, expert_tokens_, now);
  }

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
  void On(const WorkerLoaded& event, absl::Time now, std::vector<Command>& commands) {
    membership_.Answered(event.worker, now);
    membership_.Loaded(event.worker, now, commands);
  }
  void On(const WorkerReady& event, absl::Time now, std::vector<Command>& commands);
  void On(const ConnectFailed& event, absl::Time now, std::vector<Command>&) {
    membership_.Answered(event.worker, now);
    membership_.Unconnected(event, now);
  }
  void On(const WorkerLost& event, absl::Time now, std::vector<Command>& commands) {
    EndAfterLoss(membership_.Lost(event.worker, event.why, now, commands), now);
  }
  void On(const StepDone& event, absl::Time now, std::vector<Command>& commands);
  void On(const ExpertTokens& event, absl::Time, std::vector<Command>&) {
    if (membership_.roster().Find(event.worker) != nullptr) expert_tokens_.Add(event);
  }
  void On(const Heartbeat& event, absl::Time now, std::vector<Command>&) {
    membership_.Heard(event.worker, now);
  }
  void On(const Tick&, absl::Time now, std::vector<Command>& commands);
  void On(const DrainStarted&, absl::Time, std::vector<Command>&) { state_.draining = true; }

  void EndAfterLoss(const std::optional<EpochEnd>& end, absl::Time now) {
    if (end.has_value()) End(Recovery::Cause::kLoss, *end, now);
  }
  // The membership has ended its epoch.
  void End(Recovery::Cause cause, const EpochEnd& end, absl::Time now);
  void LetEnter(absl::Time now, std::vector<Command>& commands);

  Membership membership_;
  ServingState state_;
  StepPlanner planner_;
  RecoveryLog log_;
  WaitingMatrix waiting_;
  ExpertTokenCounts expert_tokens_;
};

void CoordinatorCore::End(Recovery::Cause cause, const EpochEnd& end, absl::Time now) {
  const Interrupted counts = EndEpoch(state_, membership_.roster(), now);
  for (const RankId rank : counts.lost) waiting_.Forget(rank);
  if (!membership_.formed()) return;  // the first epoch has not begun yet
  Recovery recovery;
  recovery.epoch = membership_.epoch();
  recovery.cause = cause;
  recovery.who = end.who;
  recovery.why = end.why;
  recovery.heard = end.heard;
  recovery.suspected = end.suspected;
  recovery.decided = now;
  recovery.paused = membership_.paused();
  recovery.rewound = counts.rewound;
  recovery.replayed = counts.replayed;
  log_.Begin(std::move(recovery));
}

void CoordinatorCore::LetEnter(absl::Time now, std::vector<Command>& commands) {
  const EpochEnd end{membership_.entrants(), "can enter", membership_.entrants_since(),
                     membership_.entrants_since()};
  membership_.Raise(now, commands);
  End(Recovery::Cause::kEntry, end, now);
}

void CoordinatorCore::On(const WorkerReady& event, absl::Time now, std::vector<Command>& commands) {
  membership_.Answered(event.worker, now);
  if (!membership_.Ready(event.worker, event.epoch)) return;
  BeginEpoch(state_, membership_, now, commands);
  log_.Fenced(now);
  const auto requests = static_cast<int64_t>(state_.requests.size());
  if (requests == RequestsBackingOff(state_)) log_.Resumed(now);
}

void CoordinatorCore::On(const StepDone& event, absl::Time now, std::vector<Command>& commands) {
  membership_.Answered(event.worker, now);
  const Member* member = membership_.roster().Find(event.worker);
  if (member == nullptr || !member->in_epoch || !state_.serving || event.epoch != state_.epoch) {
    if (!event.status.ok()) membership_.Waited(event.worker, event.epoch, event.blamed);
    return;
  }
  const RankId rank = *member->rank;
  absl::Status status = event.status;
  bool blames_others =
      !membership_.OtherMembers(rank, event.blamed).empty() || BlamesOthers(status);
  if (status.ok()) {
    const absl::StatusOr<bool> filed = FileResults(state_, rank, event);
    if (filed.ok()) {
      if (!*filed) return;
      waiting_.Add(rank, event);
      const StepId before = state_.last_committed;
      CommitSteps(state_, now, commands);
      if (state_.last_committed != before) {
        membership_.Progressed(now);
        log_.Resumed(now);
      }
      return;
    }
    status = filed.status();
    blames_others = false;
  }
  waiting_.Add(rank, event);
  if (!blames_others) {
    return EndAfterLoss(membership_.Evict({{event.worker, status}}, now, commands), now);
  }
  EpochEnd end{membership_.roster().Describe(event.worker),
               absl::StrCat("step ", event.step.value(), ": ", status.ToString()), now, now};
  if (absl::IsDeadlineExceeded(status)) {
    if (const std::optional<RankId> slowest = waiting_.Snapshot().straggler) {
      absl::StrAppend(&end.why, "; slowest of late was rank ", slowest->value());
    }
  }
  membership_.StepFailed(event, status, now, commands);
  membership_.Answered(event.worker, now);  // in the new epoch: its failure was an answer
  End(Recovery::Cause::kStep, end, now);
}

void CoordinatorCore::On(const Tick&, absl::Time now, std::vector<Command>& commands) {
  EndAfterLoss(membership_.Tick(now, commands), now);
  if (const std::optional<EpochEnd> end = membership_.Settle(now, commands)) {
    End(Recovery::Cause::kConnect, *end, now);
  }
  std::vector<Membership::Eviction> overdue;
  for (const RankId rank : OverdueRanks(state_, now)) {
    overdue.push_back({state_.ranks[rank.value()].worker,
                       absl::DeadlineExceededError(absl::StrCat(
                           "no report of step ", state_.in_flight.front().id.value(), " within ",
                           absl::FormatDuration(now - state_.in_flight.front().began)))});
  }
  EndAfterLoss(membership_.Evict(overdue, now, commands), now);
  ExpireDeadlines(state_, membership_.paused(), now, commands);
  EndBackoffs(state_, now);
}

}  // namespace

std::unique_ptr<Core> Core::Create(const CoreConfig& config) {
  SHOAL_CHECK(Validate(config).ok());
  return std::make_unique<CoordinatorCore>(config);
}

}  // namespace shoal
