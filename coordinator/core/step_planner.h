// SPDX-License-Identifier: Apache-2.0
// Plans one step of the whole unit: which rows of which sequences every rank computes, written as
// changes to what it does anyway.
#pragma once

#include <vector>

#include "absl/time/time.h"
#include "coordinator/core/events.h"
#include "coordinator/core/scheduler.h"
#include "coordinator/core/serving_state.h"

namespace shoal {

class StepPlanner {
 public:
  // Plans steps while there is something to compute and fewer than ServingState::kMaxInFlight are
  // sent and not committed: one SendPlan for every rank present, also for those without rows. A step may be
  // planned before the tokens it feeds are known; only the worker needs them.
  void PlanSteps(ServingState& state, absl::Time now, std::vector<Command>& commands);

 private:
  // The plan of one rank in the making.
  struct Draft {
    RankPlan plan;
    RankRoom room;
    std::vector<Expected> expected;
    std::vector<Sequence*> prefilled;  // sequences with a chunk in this step
    bool has_rows = false;
  };

  enum class Lacking { kAny, kOneRow };

  bool PlanStep(ServingState& state, absl::Time now, std::vector<Command>& commands);
  // Lets sequences of lower priority yield to the one whose turn it is, if that makes room for it.
  void MakeRoom(ServingState& state);
  // Ends stays whose last row is planned.
  void LetLeave(ServingState& state, RankBatch& rank);
  // Gives sequences the blocks that the next rows of decoding ones, and the known tokens of rewound
  // ones, need; the most junior ones yield when there are none left.
  void GrowTables(ServingState& state, RankBatch& rank);
  // Into the first plan of an epoch: the sequences that live on in the rank.
  void NameSurvivors(RankBatch& rank, Draft& draft);
  void PlanDecode(RankBatch& rank, Draft& draft);
  // Those that lack one row go first: rewound sequences decode on, whatever long prompts are here.
  // With kOneRow only they do.
  void PlanPrefill(RankBatch& rank, StepId step, Lacking lacking, Draft& draft);
  // Adds the sequence's next chunk, if it gets any rows.
  void PlanChunk(Sequence& sequence, RankBatch& rank, StepId step, Draft& draft);
  // Gives waiting sequences places, in their order, until one finds none. One that fits into no rank
  // present is set aside: it must not hold up the others.
  void Admit(ServingState& state, absl::Time now);
  void Send(ServingState& state, absl::Time now, std::vector<Command>& commands);

  std::vector<Draft> drafts_;       // by rank; kept for their memory
  std::vector<RankRoom> room_;      // by rank, while admitting
  std::vector<Sequence*> chunked_;  // of one rank, in their turn
};

// Ends a stay because its blocks are needed: the sequence goes back to the front of the queue and
// will be computed again from its prompt and committed tokens, with the same result.
void Preempt(ServingState& state, Sequence& sequence);

// Takes a running sequence out of its batch.
void LeaveBatch(ServingState& state, Sequence& sequence);

// Lets the further choices of a request wait for a place themselves.
void ReleaseHeld(ServingState& state, LiveRequest& request);

}  // namespace shoal
