// SPDX-License-Identifier: Apache-2.0
#include "coordinator/core/epoch_change.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "coordinator/core/admission.h"
#include "coordinator/core/endings.h"
#include "coordinator/core/step_planner.h"

namespace shoal {
namespace {

// Back to the front of the queue; it is in no batch any more.
void WaitAgain(ServingState& state, Sequence& sequence) {
  sequence.state = Sequence::State::kWaiting;
  sequence.resumed = true;
  state.waiting.Push(sequence);
}

bool IsLost(const RankBatch& rank, const Roster& roster) {
  if (!rank.present) return false;
  const Member* member = roster.Find(rank.worker);
  return member == nullptr || member->left_out;
}

// The worker that ran it is gone.
void CountDeath(Sequence& sequence, std::vector<RequestId>& hopeless) {
  if (++sequence.deaths == kMostDeaths) hopeless.push_back(sequence.request->request.id);
}

// Results that will not come. Sequences that had left with their last row planned need it again.
int64_t VoidSteps(ServingState& state, const Roster& roster, std::vector<RequestId>& hopeless) {
  int64_t replayed = 0;
  for (InFlightStep& step : state.in_flight) {
    for (size_t r = 0; r < step.shares.size(); ++r) {
      for (Expected& expected : step.shares[r].expected) {
        if (expected.sequence == nullptr) continue;
        Sequence& sequence = *expected.sequence;
        sequence.results_in_flight = 0;
        if (sequence.state != Sequence::State::kLeaving) continue;
        WaitAgain(state, sequence);
        ++replayed;
        if (IsLost(state.ranks[r], roster)) CountDeath(sequence, hopeless);
      }
    }
  }
  state.in_flight.clear();
  return replayed;
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
void Evacuate(ServingState& state, RankBatch& rank, Interrupted& counts,
              std::vector<RequestId>& hopeless) {
  while (!rank.running.empty()) {
    Sequence& sequence = *rank.running.back();
    LeaveBatch(state, sequence);
    WaitAgain(state, sequence);
    ++counts.replayed;
    CountDeath(sequence, hopeless);
  }
  const int64_t blocks = rank.blocks.total();
  rank = RankBatch(WorkerId(), blocks, state.config.block_tokens);
  rank.present = false;
}

}  // namespace

Interrupted EndEpoch(ServingState& state, const Roster& roster, absl::Time now,
                     std::vector<Command>& commands) {
  state.serving = false;
  Interrupted counts;
  std::vector<RequestId> hopeless;
  counts.replayed = VoidSteps(state, roster, hopeless);
  for (size_t r = 0; r < state.ranks.size(); ++r) {
    RankBatch& rank = state.ranks[r];
    if (!rank.present) continue;
    if (IsLost(rank, roster)) {
      Evacuate(state, rank, counts, hopeless);
      counts.lost.push_back(RankId(static_cast<int32_t>(r)));
    } else {
      RewindRank(state, rank, counts);
    }
  }
  for (const RequestId id : hopeless) {
    if (!state.requests.contains(id)) continue;  // another choice ended it
    EndRequest(state, id,
               absl::UnavailableError(absl::StrCat(
                   kMostDeaths, " workers died while they ran this request, and it got no further")),
               now, commands);
  }
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
