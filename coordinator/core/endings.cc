// SPDX-License-Identifier: Apache-2.0
#include "coordinator/core/endings.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "coordinator/core/step_planner.h"
#include "engine/base/check.h"

namespace shoal {
namespace {

// A request that brings the unit down each time must not come back forever.
constexpr int32_t kMaxInterruptions = 3;

Emit EmptyEmission(const Sequence& sequence) {
  Emit emit;
  emit.request = sequence.request->request.id;
  emit.choice = sequence.choice();
  emit.first_index = static_cast<int32_t>(sequence.generated.size());
  return emit;
}

void DropResultsInFlight(ServingState& state, const Sequence& sequence) {
  if (sequence.results_in_flight == 0) return;
  for (InFlightStep& step : state.in_flight) {
    for (Expected& expected : step.shares[sequence.last_rank.value()].expected) {
      if (expected.sequence == &sequence) expected.sequence = nullptr;
    }
  }
}

// The pace at which places become free, measured while somebody waits for one.
void NoteFinish(ServingState& state, absl::Time now) {
  constexpr double kWeight = 0.2;  // of the newest interval
  if (state.last_finish != absl::InfinitePast() && state.waiting_requests > 0) {
    const double interval = absl::ToDoubleSeconds(now - state.last_finish);
    state.finish_interval_s = state.finish_interval_s == 0
                                  ? interval
                                  : (1 - kWeight) * state.finish_interval_s + kWeight * interval;
  }
  state.last_finish = now;
}

// Takes what runs out of all batches, which are void; queued sequences only lose results in flight.
// Returns the requests that were running.
std::vector<RequestId> EmptyBatches(ServingState& state) {
  std::vector<RequestId> running;
  for (auto& [id, request] : state.requests) {
    bool was_running = false;
    for (Sequence& choice : request.choices) {
      choice.results_in_flight = 0;
      if (choice.state == Sequence::State::kRunning) LeaveBatch(state, choice);
      if (choice.state == Sequence::State::kRunning || choice.state == Sequence::State::kLeaving) {
        choice.state = Sequence::State::kLeaving;
        was_running = true;
      }
    }
    if (was_running) running.push_back(id);
  }
  return running;
}

bool MayReplay(const ServingState& state, const LiveRequest& request) {
  if (!state.config.replay_on_failure || state.draining) return false;
  for (const Sequence& choice : request.choices) {
    if (choice.interruptions >= kMaxInterruptions) return false;
  }
  return true;
}

}  // namespace

Emit BeginEmission(Sequence& sequence) {
  Emit emit = EmptyEmission(sequence);
  if (!sequence.emitted) {
    sequence.emitted = true;
    emit.prompt_logprobs = sequence.prompt_logprobs;
    emit.cached_prompt_tokens = sequence.request->cached_prompt_tokens;
    emit.queued = sequence.request->queued;
  }
  return emit;
}

void EndChoice(ServingState& state, Sequence& sequence, absl::Time now) {
  LiveRequest& request = *sequence.request;
  SHOAL_CHECK(sequence.state != Sequence::State::kEnded);
  if (sequence.state == Sequence::State::kRunning) LeaveBatch(state, sequence);
  if (sequence.state == Sequence::State::kWaiting) state.waiting.Remove(sequence);
  DropResultsInFlight(state, sequence);
  sequence.state = Sequence::State::kEnded;
  if (sequence.choice() == 0) ReleaseHeld(state, request);  // they need not wait for it any more
  if (--request.unfinished > 0) return;

  const RequestId id = request.request.id;
  if (request.started) {
    NoteFinish(state, now);
  } else {
    --state.waiting_requests;
  }
  state.deadlines.erase({request.request.deadline, id});
  state.users.Leave(request.request.user);
  state.requests.erase(id);
}

void EndRequest(ServingState& state, RequestId id, const absl::Status& why, absl::Time now,
                std::vector<Command>& commands) {
  LiveRequest& request = state.requests.at(id);
  const bool nothing_said = !request.started && request.unfinished == request.request.n;
  const bool reject = nothing_said && !why.ok();
  if (reject) commands.push_back(Reject{id, why});
  for (int32_t left = request.unfinished, i = 0; left > 0; ++i) {
    Sequence& choice = request.choices[i];
    if (choice.state == Sequence::State::kEnded) continue;
    if (!reject) {
      Emit emit = EmptyEmission(choice);
      emit.finish = why.ok() ? FinishReason::kCancelled : FinishReason::kError;
      emit.error = why;
      commands.push_back(std::move(emit));
    }
    --left;
    EndChoice(state, choice, now);
  }
}

void Cancel(ServingState& state, const RequestCancelled& event, absl::Time now,
            std::vector<Command>& commands) {
  auto it = state.requests.find(event.id);
  if (it == state.requests.end()) return;
  if (!event.choice.has_value()) {
    EndRequest(state, event.id, absl::OkStatus(), now, commands);
    return;
  }
  std::vector<Sequence>& choices = it->second.choices;
  if (*event.choice < 0 || static_cast<size_t>(*event.choice) >= choices.size()) return;
  Sequence& choice = choices[*event.choice];
  if (choice.state == Sequence::State::kEnded) return;
  Emit emit = EmptyEmission(choice);
  emit.finish = FinishReason::kCancelled;
  commands.push_back(std::move(emit));
  EndChoice(state, choice, now);
}

void ExpireDeadlines(ServingState& state, absl::Time now, std::vector<Command>& commands) {
  while (!state.deadlines.empty() && state.deadlines.begin()->first <= now) {
    const RequestId id = state.deadlines.begin()->second;
    const bool started = state.requests.at(id).started;
    EndRequest(state, id,
               absl::DeadlineExceededError(started ? "the request's deadline passed while it ran"
                                                   : "the request's deadline passed in the queue"),
               now, commands);
  }
}

void Interrupt(ServingState& state, const absl::Status& why, absl::Time now,
               std::vector<Command>& commands) {
  state.serving = false;
  state.in_flight.clear();
  for (const RequestId id : EmptyBatches(state)) {
    LiveRequest& request = state.requests.at(id);
    if (!MayReplay(state, request)) {
      EndRequest(state, id, why, now, commands);
      continue;
    }
    for (Sequence& choice : request.choices) {
      if (choice.state != Sequence::State::kLeaving) continue;
      choice.state = Sequence::State::kWaiting;
      choice.resumed = true;
      ++choice.interruptions;
      state.waiting.Push(choice);
    }
  }
  for (RankBatch& rank : state.ranks) {
    rank.forget.clear();  // workers forget all sequences with their epoch
    rank.blocks.DropContentsAfter(state.last_committed);
  }
}

void ContinueDrain(ServingState& state, absl::Time now, std::vector<Command>& commands) {
  if (!state.draining || state.drained) return;
  if (!state.serving) {
    while (!state.requests.empty()) {
      EndRequest(state, state.requests.begin()->first,
                 absl::UnavailableError("the server is shutting down and its workers are gone"),
                 now, commands);
    }
  }
  if (!state.requests.empty()) return;
  state.drained = true;
  commands.push_back(Drained{});
}

}  // namespace shoal
