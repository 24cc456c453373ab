// SPDX-License-Identifier: Apache-2.0
#include "coordinator/core/admission.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "coordinator/core/backoff.h"
#include "coordinator/core/endings.h"

namespace shoal {
namespace {

absl::Status CheckSane(const CoreConfig& config, const Request& request) {
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  if (prompt == 0) return absl::InvalidArgumentError("the prompt has no tokens");
  if (request.n < 1 || request.n > kMaxChoices) {
    return absl::InvalidArgumentError(
        absl::StrCat("n is ", request.n, ", must be 1 to ", kMaxChoices));
  }
  if (request.max_tokens < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_tokens is ", request.max_tokens, ", must not be negative"));
  }
  if (prompt + request.max_tokens > config.max_context) {
    return absl::InvalidArgumentError(absl::StrCat("the prompt's ", prompt,
                                                   " tokens and max_tokens ", request.max_tokens,
                                                   " exceed the context of ", config.max_context));
  }
  return absl::OkStatus();
}

absl::Status CheckFits(const ServingState& state, int64_t rows) {
  const int64_t wanted = (rows + state.config.block_tokens - 1) / state.config.block_tokens;
  if (wanted <= state.most_blocks) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "prompt and max_tokens want ", wanted, " cache blocks of ", state.config.block_tokens,
      " tokens, a worker has ", state.most_blocks));
}

// How long until what waits now has gone through, at the pace of late.
absl::Duration EstimateWait(const ServingState& state) {
  const double seconds = state.finish_interval_s * static_cast<double>(state.waiting_requests);
  return absl::Seconds(std::clamp(std::ceil(seconds), 1.0, 60.0));
}

void Enqueue(ServingState& state, Request request, absl::Time now) {
  const RequestId id = request.id;
  LiveRequest& live = state.requests[id];
  live.request = std::move(request);
  live.arrived = now;
  live.user = &state.users.Join(live.request.user);
  live.unfinished = live.request.n;
  live.choices.resize(live.request.n);
  ++state.last_arrival;
  ++state.waiting_requests;
  if (live.request.deadline != absl::InfiniteFuture()) {
    state.deadlines.insert({live.request.deadline, id});
  }
  // Further choices find the prompt's full blocks in the prefix cache, once choice 0 has filled
  // them.
  const bool share = state.config.prefix_cache && !live.request.sampling.prompt_logprobs &&
                     static_cast<int64_t>(live.request.prompt.size()) > state.config.block_tokens;
  for (int32_t i = 0; i < live.request.n; ++i) {
    Sequence& choice = live.choices[i];
    choice.request = &live;
    choice.prompt_tokens = static_cast<int32_t>(live.request.prompt.size());
    choice.total_rows = choice.prompt_tokens + live.request.max_tokens - 1;
    choice.wants_logprobs = live.request.sampling.top_logprobs >= 0;
    choice.wants_prompt_logprobs = live.request.sampling.prompt_logprobs;
    choice.seniority = Seniority{live.request.priority, state.last_arrival, i};
    if (i > 0 && share) continue;  // held
    choice.state = Sequence::State::kWaiting;
    state.waiting.Push(choice);
  }
}

// Nothing to compute: not even prompt log-probabilities are wanted, or the prompt is one token.
void FinishAtOnce(ServingState& state, const Request& request, std::vector<Command>& commands) {
  state.counters.prompt_tokens += static_cast<int64_t>(request.prompt.size());
  for (int32_t i = 0; i < request.n; ++i) {
    Emit emit;
    emit.request = request.id;
    emit.choice = i;
    emit.finish = FinishReason::kLength;
    commands.push_back(std::move(emit));
  }
}

}  // namespace

void Arrive(ServingState& state, Request request, absl::Time now, std::vector<Command>& commands) {
  if (state.requests.contains(request.id)) return;
  const auto reject = [&](absl::Status why, absl::Duration retry_after = absl::ZeroDuration()) {
    commands.push_back(Reject{request.id, std::move(why), retry_after});
  };
  if (state.draining) return reject(absl::UnavailableError("the server is shutting down"));
  if (absl::Status sane = CheckSane(state.config, request); !sane.ok()) {
    return reject(std::move(sane));
  }
  const int64_t rows = static_cast<int64_t>(request.prompt.size()) + request.max_tokens - 1;
  if (!state.ranks.empty()) {
    if (absl::Status fits = CheckFits(state, rows); !fits.ok()) return reject(std::move(fits));
  }
  if (request.deadline <= now) {
    return reject(absl::DeadlineExceededError("the request's deadline has passed on arrival"));
  }
  if (request.max_tokens == 0 && (rows == 0 || !request.sampling.prompt_logprobs)) {
    return FinishAtOnce(state, request, commands);
  }
  const int64_t waiting = state.waiting_requests + RequestsBackingOff(state);
  if (waiting >= state.config.max_queued_requests) {
    return reject(
        absl::ResourceExhaustedError(absl::StrCat(waiting, " requests are waiting already")),
        EstimateWait(state));
  }
  Enqueue(state, std::move(request), now);
}

void EndOversized(ServingState& state, absl::Time now, std::vector<Command>& commands) {
  std::vector<std::pair<RequestId, absl::Status>> oversized;
  for (const auto& [id, request] : state.requests) {
    absl::Status fits = CheckFits(state, request.choices[0].total_rows);
    if (fits.ok()) continue;
    if (request.started) {  // it did fit
      fits = absl::UnavailableError(absl::StrCat(
          "those that took the place of dead workers have less memory: ", fits.message()));
    }
    oversized.emplace_back(id, std::move(fits));
  }
  for (const auto& [id, why] : oversized) EndRequest(state, id, why, now, commands);
}

}  // namespace shoal
