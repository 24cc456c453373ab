// SPDX-License-Identifier: Apache-2.0
#include "coordinator/core/step_planner.h"

#include <algorithm>
#include <utility>

#include "engine/base/check.h"

namespace shoal {
namespace {

// Full blocks of the prompt that a further choice would find in the prefix cache.
int32_t SharedRows(const ServingState& state, const LiveRequest& request) {
  const auto prompt = static_cast<int32_t>(request.request.prompt.size());
  return (prompt - 1) / state.config.block_tokens * state.config.block_tokens;
}

bool LastRowPlanned(const Sequence& sequence) {
  return sequence.stay.planned_rows >= sequence.total_rows;
}

int32_t RowsLeft(const Sequence& sequence) {
  return std::min(sequence.known_tokens(), sequence.total_rows) - sequence.stay.planned_rows;
}

// Blocks that the next plan must name.
std::vector<BlockId> TakeUntoldBlocks(Stay& stay) {
  std::vector<BlockId> blocks(stay.blocks.begin() + stay.told_blocks, stay.blocks.end());
  stay.told_blocks = static_cast<int32_t>(stay.blocks.size());
  return blocks;
}

bool FitsSomewhere(const ServingState& state, const Sequence& sequence) {
  return std::any_of(state.ranks.begin(), state.ranks.end(), [&](const RankBatch& rank) {
    return rank.present && FitsAlone(rank, sequence);
  });
}

NewSequence Introduce(const Sequence& sequence) {
  NewSequence entering;
  entering.id = sequence.stay.id;
  entering.prompt_tokens = sequence.prompt_tokens;
  entering.sampling = sequence.request->request.sampling;
  sequence.CopyTokens(0, sequence.known_tokens(), entering.tokens);
  entering.sampling.seed += static_cast<uint64_t>(sequence.choice());
  return entering;
}

// First time in a batch: what the request will be told of its prompt.
void CountFirstStay(ServingState& state, Sequence& sequence, absl::Time now) {
  LiveRequest& request = *sequence.request;
  const int32_t prompt = sequence.prompt_tokens;
  const int32_t cached = sequence.stay.planned_rows;
  if (state.config.prefix_cache) {
    state.counters.prefix_cache_queries += prompt;
    state.counters.prefix_cache_hits += cached;
  }
  request.user->served += prompt - cached;
  if (request.started) return;
  request.started = true;
  request.cached_prompt_tokens = cached;
  request.queued = now - request.arrived;
  --state.waiting_requests;
  state.counters.prompt_tokens += prompt;
}

}  // namespace

void LeaveBatch(ServingState& state, Sequence& sequence) {
  RankBatch& rank = state.ranks[sequence.stay.rank.value()];
  if (state.config.prefix_cache) IndexBlocks(rank, state.last_step, sequence);
  EndStay(rank, sequence);
  auto count = state.running_by_priority.find(sequence.seniority.priority);
  if (--count->second == 0) state.running_by_priority.erase(count);
}

void Preempt(ServingState& state, Sequence& sequence) {
  LeaveBatch(state, sequence);
  sequence.state = Sequence::State::kWaiting;
  sequence.resumed = true;
  state.waiting.Push(sequence);
  ++state.counters.preemptions;
}

void ReleaseHeld(ServingState& state, LiveRequest& request) {
  for (Sequence& choice : request.choices) {
    if (choice.state != Sequence::State::kHeld) continue;
    choice.state = Sequence::State::kWaiting;
    state.waiting.Push(choice);
  }
}

void StepPlanner::PlanSteps(ServingState& state, absl::Time now, std::vector<Command>& commands) {
  while (state.serving && state.in_flight.size() < ServingState::kMaxInFlight &&
         PlanStep(state, now, commands)) {
  }
}

bool StepPlanner::PlanStep(ServingState& state, absl::Time now, std::vector<Command>& commands) {
  const StepId step = state.last_step.Next();
  drafts_.resize(state.ranks.size());
  for (RankBatch& rank : state.ranks) LetLeave(state, rank);
  MakeRoom(state);
  for (size_t r = 0; r < state.ranks.size(); ++r) {
    RankBatch& rank = state.ranks[r];
    Draft& draft = drafts_[r];
    draft.room = RankRoom{};
    draft.has_rows = false;
    if (!rank.present) continue;
    draft.room = RankRoom{state.config.max_batch_rows, state.config.max_running_sequences};
    GrowTables(state, rank);
    if (state.rewind_due) NameSurvivors(rank, draft);
    PlanDecode(rank, draft);
    PlanPrefill(rank, step, state.rewind_due ? Lacking::kOneRow : Lacking::kAny, draft);
  }
  const auto has_rows = [this] {
    return std::any_of(drafts_.begin(), drafts_.end(), [](const Draft& d) { return d.has_rows; });
  };
  // Whoever was interrupted while it decoded goes on at once: a step with chunks, of those that are
  // replayed above all, takes long, and comes next.
  if (!state.rewind_due || !has_rows()) {
    for (size_t r = 0; state.rewind_due && r < state.ranks.size(); ++r) {
      PlanPrefill(state.ranks[r], step, Lacking::kAny, drafts_[r]);
    }
    Admit(state, now);
  }
  // Without rows nothing was drafted; what ranks must forget waits for the next step that has some.
  if (!has_rows()) return false;
  Send(state, now, commands);
  return true;
}

void StepPlanner::LetLeave(ServingState& state, RankBatch& rank) {
  for (size_t i = 0; i < rank.running.size();) {
    Sequence& sequence = *rank.running[i];
    if (!LastRowPlanned(sequence)) {
      ++i;
      continue;
    }
    LeaveBatch(state, sequence);
    sequence.state = Sequence::State::kLeaving;
  }
}

void StepPlanner::MakeRoom(ServingState& state) {
  Sequence* next = state.waiting.Front();
  if (next == nullptr || next->results_in_flight > 0) return;
  if (state.config.prefix_cache) HashBlocks(*next, state.config.block_tokens);
  const std::optional<RankId> place = ChooseRankToClear(state, *next);
  if (!place.has_value()) return;
  RankBatch& rank = state.ranks[place->value()];
  const auto has_room = [&] {
    return HasRoom(state, rank, *next,
                   state.config.prefix_cache ? MatchPrefix(rank, *next) : PrefixMatch{});
  };
  while (!has_room()) {
    Sequence* victim = ChooseVictim(rank);
    if (victim == nullptr || victim->seniority.priority <= next->seniority.priority) return;
    Preempt(state, *victim);
  }
}

void StepPlanner::GrowTables(ServingState& state, RankBatch& rank) {
  for (size_t i = 0; i < rank.running.size();) {
    Sequence& sequence = *rank.running[i];
    Stay& stay = sequence.stay;
    const int32_t rows = stay.planned_rows + (stay.decoding ? 1 : RowsLeft(sequence));
    if (rank.BlocksFor(rows) <= static_cast<int64_t>(stay.blocks.size())) {
      ++i;
      continue;
    }
    if (const std::optional<BlockId> block = rank.blocks.Allocate()) {
      stay.blocks.push_back(*block);
      continue;
    }
    Sequence* victim = ChooseVictim(rank);
    // A victim before this one moves it forward; the victim itself makes way for the next one.
    if (victim->stay.id < stay.id) --i;
    Preempt(state, *victim);
  }
}

void StepPlanner::NameSurvivors(RankBatch& rank, Draft& draft) {
  for (const Sequence* sequence : rank.running) {
    draft.plan.rewind.push_back(Rewind{.id = sequence->stay.id,
                                       .tokens = sequence->known_tokens(),
                                       .rows = sequence->stay.planned_rows});
  }
  rank.forget.clear();  // whoever is not named is forgotten
}

void StepPlanner::PlanDecode(RankBatch& rank, Draft& draft) {
  for (Sequence* sequence : rank.running) {
    Stay& stay = sequence->stay;
    if (!stay.decoding) continue;
    const int32_t row = stay.planned_rows++;
    if (stay.told_blocks < static_cast<int32_t>(stay.blocks.size())) {
      SequenceWork& work = draft.plan.work.emplace_back();
      work.id = stay.id;
      work.start = row;
      work.count = 1;
      work.sample = true;
      work.new_blocks = TakeUntoldBlocks(stay);
    }
    ++sequence->results_in_flight;
    draft.expected.push_back(
        Expected{.sequence = sequence,
                 .id = stay.id,
                 .position = row + 1,
                 .logprobs = sequence->wants_logprobs});
    --draft.room.rows;
    --draft.room.logits;
    draft.has_rows = true;
  }
  SHOAL_CHECK(draft.room.rows >= 0 && draft.room.logits >= 0);
}

void StepPlanner::PlanPrefill(RankBatch& rank, StepId step, Lacking lacking, Draft& draft) {
  if (!rank.present || rank.prefill_rows == 0) return;
  chunked_.clear();
  for (Sequence* sequence : rank.running) {
    if (!sequence->stay.decoding) chunked_.push_back(sequence);
  }
  std::sort(chunked_.begin(), chunked_.end(), [](const Sequence* a, const Sequence* b) {
    return std::make_pair(RowsLeft(*a) > 1, a->seniority) <
           std::make_pair(RowsLeft(*b) > 1, b->seniority);
  });
  for (Sequence* sequence : chunked_) {
    if (lacking == Lacking::kOneRow && RowsLeft(*sequence) > 1) return;
    PlanChunk(*sequence, rank, step, draft);
  }
}

void StepPlanner::PlanChunk(Sequence& sequence, RankBatch& rank, StepId step, Draft& draft) {
  const Chunk chunk = NextChunk(sequence, draft.room);
  if (chunk.count == 0) return;
  Stay& stay = sequence.stay;
  stay.MarkBefore(step);
  SequenceWork work;
  work.id = stay.id;
  work.start = stay.planned_rows;
  work.count = chunk.count;
  work.sample = chunk.sample;
  work.prompt_logprobs = chunk.prompt_logprobs;
  work.new_blocks = TakeUntoldBlocks(stay);
  Expected expected{.sequence = &sequence, .id = stay.id};
  const int32_t end = work.start + work.count;
  if (chunk.prompt_logprobs) {
    expected.prompt_logprobs_first = work.start + 1;
    expected.prompt_logprobs_count = std::min(end, sequence.prompt_tokens - 1) - work.start;
  }
  if (chunk.sample) {
    expected.position = end;
    expected.logprobs = sequence.wants_logprobs;
    stay.decoding = true;
  }
  if (chunk.sample || chunk.prompt_logprobs) {
    ++sequence.results_in_flight;
    draft.expected.push_back(expected);
  }
  stay.planned_rows = end;
  rank.prefill_rows -= chunk.count;
  draft.room.rows -= chunk.count;
  draft.room.logits -= chunk.prompt_logprobs ? chunk.count : chunk.sample ? 1 : 0;
  draft.has_rows = true;
  draft.prefilled.push_back(&sequence);
  draft.plan.work.push_back(std::move(work));
}

void StepPlanner::Admit(ServingState& state, absl::Time now) {
  room_.clear();
  for (const Draft& draft : drafts_) room_.push_back(draft.room);
  while (Sequence* sequence = state.waiting.Front()) {
    // Results of its last stay are still to be committed; it comes back with them.
    if (sequence->results_in_flight > 0) return;
    if (!FitsSomewhere(state, *sequence)) {
      state.waiting.Remove(*sequence);
      sequence->state = Sequence::State::kSetAside;
      state.set_aside.push_back(sequence);
      continue;
    }
    if (state.config.prefix_cache) HashBlocks(*sequence, state.config.block_tokens);
    const std::optional<RankId> place = ChooseRank(state, room_, *sequence);
    if (!place.has_value()) return;

    state.waiting.Remove(*sequence);
    RankBatch& rank = state.ranks[place->value()];
    Draft& draft = drafts_[place->value()];
    state.last_sequence = state.last_sequence.Next();
    BeginStay(rank, *place, state.last_sequence, state.config.prefix_cache, *sequence);
    sequence->stay.entered = state.last_step.Next();
    sequence->state = Sequence::State::kRunning;
    ++state.running_by_priority[sequence->seniority.priority];
    if (!sequence->resumed) CountFirstStay(state, *sequence, now);
    draft.plan.new_sequences.push_back(Introduce(*sequence));
    PlanChunk(*sequence, rank, sequence->stay.entered, draft);
    SHOAL_CHECK(!draft.plan.work.empty() && draft.plan.work.back().id == sequence->stay.id);
    room_[place->value()] = draft.room;
  }
}

void StepPlanner::Send(ServingState& state, absl::Time now, std::vector<Command>& commands) {
  state.last_step = state.last_step.Next();
  InFlightStep step;
  if (!state.spare_steps.empty()) {
    step = std::move(state.spare_steps.back());
    state.spare_steps.pop_back();
  }
  step.id = state.last_step;
  step.began = now;
  step.shares_done = 0;
  step.shares.resize(state.ranks.size());
  for (size_t r = 0; r < state.ranks.size(); ++r) {
    RankBatch& rank = state.ranks[r];
    Draft& draft = drafts_[r];
    InFlightStep::Share& share = step.shares[r];
    share.done = !rank.present;
    share.tokens.clear();
    share.prompt_logprobs.clear();
    share.expected.clear();
    if (!rank.present) {
      ++step.shares_done;
      continue;
    }
    draft.plan.forget = std::exchange(rank.forget, {});
    for (Sequence* sequence : draft.prefilled) {
      // Indexed only now: a step must not read what it writes itself.
      if (state.config.prefix_cache) IndexBlocks(rank, step.id, *sequence);
      LiveRequest& request = *sequence->request;
      if (sequence->choice() == 0 && sequence->stay.planned_rows >= SharedRows(state, request)) {
        ReleaseHeld(state, request);
      }
    }
    draft.prefilled.clear();
    share.expected.swap(draft.expected);
    std::sort(share.expected.begin(), share.expected.end(),
              [](const Expected& a, const Expected& b) { return a.id < b.id; });
    commands.push_back(
        SendPlan{rank.worker, StepPlan{state.epoch, step.id, state.config.step_timeout,
                                       std::exchange(draft.plan, RankPlan{})}});
  }
  state.rewind_due = false;
  state.in_flight.push_back(std::move(step));
}

}  // namespace shoal
