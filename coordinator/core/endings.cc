// SPDX-License-Identifier: Apache-2.0
#include "coordinator/core/endings.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "coordinator/core/step_planner.h"
#include "engine/base/check.h"

namespace shoal {
namespace {

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
  if (sequence.state == Sequence::State::kSetAside) std::erase(state.set_aside, &sequence);
  if (sequence.state == Sequence::State::kBackingOff) std::erase(state.backing_off, &sequence);
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

void ExpireDeadlines(ServingState& state, const std::string& paused, absl::Time now,
                     std::vector<Command>& commands) {
  while (!state.deadlines.empty() && state.deadlines.begin()->first <= now) {
    const RequestId id = state.deadlines.begin()->second;
    const LiveRequest& request = state.requests.at(id);
    std::string why = request.started ? "the request's deadline passed while it ran"
                                      : "the request's deadline passed in the queue";
    int32_t deaths = 0;
    for (const Sequence& choice : request.choices) deaths = std::max(deaths, choice.deaths);
    if (deaths > 1) {
      absl::StrAppend(&why, "; ", deaths, " workers died while they ran it, and it got no further");
    }
    if (!paused.empty()) absl::StrAppend(&why, "; the cluster is paused: ", paused);
    EndRequest(state, id, absl::DeadlineExceededError(why), now, commands);
  }
}

void ContinueDrain(ServingState& state, absl::Time now, std::vector<Command>& commands) {
  if (!state.draining || state.drained) return;
  const bool never_served = state.ranks.empty();
  while (never_served && !state.requests.empty()) {
    EndRequest(state, state.requests.begin()->first,
               absl::UnavailableError("the server is shutting down before its workers have come"),
               now, commands);
  }
  if (!state.requests.empty()) return;
  state.drained = true;
  commands.push_back(Drained{});
}

}  // namespace shoal
