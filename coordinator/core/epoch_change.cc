// SPDX-License-Identifier: Apache-2.0
#include "coordinator/core/epoch_change.h"

#include <algorithm>
#include <utility>

#include "coordinator/core/admission.h"
#include "coordinator/core/backoff.h"
#include "coordinator/core/step_planner.h"

namespace shoal {
namespace {

// Back to the front of the queue; it is in no batch any more.
void WaitAgain(ServingState& state, Sequence& sequence) {
  sequence.state = Sequence::State::kWaiting;
  sequence.resumed = true;
  sequence.interrupted = state.epoch;
  state.waiting.Push(sequence);
}

bool IsLost(const RankBatch& rank, const Roster& roster) {
  if (!rank.present) return false;
  const Member* member = roster.Find(rank.worker);
  return member == nullptr || member->leave.ongoing();
}

// Left out, it lives if it has said that it cannot connect.
bool IsDead(const RankBatch& rank, const Roster& roster) {
  const Member* member = roster.Find(rank.worker);
  return member == nullptr || (member->leave.ongoing() && !member->answered);
}

// Results that will not come. Sequences that had left with their last row planned need it again.
int64_t VoidSteps(ServingState& state) {
  int64_t replayed = 0;
  for (InFlightStep& step : state.in_flight) {
    for (InFlightStep::Share& share : step.shares) {
      for (Expected& expected : share.expected) {
        if (expected.sequence == nullptr) continue;
        expected.sequence->results_in_flight = 0;
        if (expected.sequence->state != Sequence::State::kLeaving) continue;
        WaitAgain(state, *expected.sequence);
        ++replayed;
      }
    }
  }
  state.in_flight.clear();
  return replayed;
}

// Before it leaves a dead worker's batch: rows that it never had before are progress.
void NoteProgress(const ServingState& state, RankBatch& rank, Sequence& sequence) {
  if (sequence.stay.entered > state.last_committed) return;
  RewindStay(rank, state.last_committed, sequence);
  if (sequence.stay.planned_rows <= sequence.most_rows) return;
  sequence.most_rows = sequence.stay.planned_rows;
  sequence.deaths = 0;
}

// The rank's worker stays, and with it what committed steps have done.
void RewindRank(ServingState& state, RankBatch& rank, Interrupted& counts) {
  std::vector<Sequence*> too_new;
  for (Sequence* sequence : rank.running) {
    // Nobody knows whether the worker has seen a plan that is not committed.
    if (sequence->stay.entered > state.last_committed) {
      too_new.push_back(sequence);
    } else {
      RewindStay(rank, state.last_committed, *sequence);
      ++counts.rewound;
    }
  }
  for (Sequence* sequence : too_new) {
    LeaveBatch(state, *sequence);
    WaitAgain(state, *sequence);
    ++counts.replayed;
  }
  rank.forget.clear();  // the next epoch's first plan names those that live on
  rank.blocks.DropContentsAfter(state.last_committed);
}

// The worker is gone, its cache with it.
void Evacuate(ServingState& state, RankBatch& rank, Interrupted& counts) {
  while (!rank.running.empty()) {
    Sequence& sequence = *rank.running.back();
    NoteProgress(state, rank, sequence);
    LeaveBatch(state, sequence);
    WaitAgain(state, sequence);
    ++counts.replayed;
  }
  const int64_t blocks = rank.blocks.total();
  rank = RankBatch(WorkerId(), blocks, state.config.block_tokens);
  rank.present = false;
}

}  // namespace

Interrupted EndEpoch(ServingState& state, const Roster& roster, absl::Time now) {
  state.serving = false;
  Interrupted counts;
  counts.replayed = VoidSteps(state);
  std::vector<RankId> dead;
  for (size_t r = 0; r < state.ranks.size(); ++r) {
    RankBatch& rank = state.ranks[r];
    if (!rank.present) continue;
    if (IsLost(rank, roster)) {
      if (IsDead(rank, roster)) dead.push_back(RankId(static_cast<int32_t>(r)));
      Evacuate(state, rank, counts);
      counts.lost.push_back(RankId(static_cast<int32_t>(r)));
    } else {
      RewindRank(state, rank, counts);
    }
  }
  CountDeaths(state, dead, now);
  return counts;
}

void BeginEpoch(ServingState& state, const Membership& membership, absl::Time now,
                std::vector<Command>& commands) {
  const bool first = state.ranks.empty();
  for (int r = 0; r < state.config.workers; ++r) {
    const Member* member = membership.MemberAt(RankId(r));
    if (first) {  // every rank is there
      state.ranks.emplace_back(member->id, member->cache_blocks, state.config.block_tokens);
    } else if (member != nullptr && !state.ranks[r].present) {
      state.ranks[r] = RankBatch(member->id, member->cache_blocks, state.config.block_tokens);
    }
  }
  for (RankBatch& rank : state.ranks) rank.blocks.CountLifetimes(&state.block_lifetimes);
  state.epoch = membership.epoch();
  state.serving = true;
  state.rewind_due = true;
  for (Sequence* sequence : std::exchange(state.set_aside, {})) {
    sequence->state = Sequence::State::kWaiting;
    state.waiting.Push(*sequence);
  }
  int64_t most = 0;
  for (const RankBatch& rank : state.ranks) most = std::max(most, rank.blocks.total());
  const int64_t before = std::exchange(state.most_blocks, most);
  if (first || most < before) EndOversized(state, now, commands);
}

}  // namespace shoal
