// SPDX-License-Identifier: Apache-2.0
#include "coordinator/core/step_results.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/core/endings.h"
#include "engine/base/check.h"

namespace shoal {
namespace {

// A worker gives up by itself after the step's timeout; its report takes a moment.
constexpr absl::Duration kReportGrace = absl::Seconds(1);

// Copies the expected tokens of `reported` to `filed`, one per expected one and in that order.
absl::Status FileTokens(const std::vector<Expected>& expected,
                        const std::vector<SampledToken>& reported,
                        std::vector<SampledToken>& filed) {
  filed = reported;
  const auto by_sequence = [](const SampledToken& a, const SampledToken& b) {
    return a.sequence < b.sequence;
  };
  if (!std::is_sorted(filed.begin(), filed.end(), by_sequence)) {
    std::stable_sort(filed.begin(), filed.end(), by_sequence);
  }
  size_t kept = 0;
  size_t next = 0;
  for (const Expected& wanted : expected) {
    if (wanted.position < 0) continue;
    while (next < filed.size() && filed[next].sequence < wanted.id) ++next;
    if (next == filed.size() || filed[next].sequence != wanted.id) {
      return absl::InternalError(absl::StrCat("no token for sequence ", wanted.id.value()));
    }
    const SampledToken& token = filed[next];
    if (token.position != wanted.position || token.token < 0) {
      return absl::InternalError(absl::StrCat("sequence ", wanted.id.value(), ": want a token at ",
                                              wanted.position, ", got token ", token.token, " at ",
                                              token.position));
    }
    if (wanted.logprobs && !token.logprobs.has_value()) {
      return absl::InternalError(
          absl::StrCat("no log-probabilities for sequence ", wanted.id.value()));
    }
    // What was asked for moves to the front, over what nobody asked for.
    if (kept != next) filed[kept] = std::move(filed[next]);
    ++kept;
    ++next;
  }
  filed.resize(kept);
  return absl::OkStatus();
}

absl::Status FilePromptLogprobs(const std::vector<Expected>& expected,
                                const std::vector<PromptLogprobs>& reported,
                                std::vector<PromptLogprobs>& filed) {
  filed.clear();
  for (const Expected& wanted : expected) {
    if (wanted.prompt_logprobs_count == 0) continue;
    const auto found =
        std::find_if(reported.begin(), reported.end(), [&](const PromptLogprobs& candidate) {
          return candidate.sequence == wanted.id &&
                 candidate.position == wanted.prompt_logprobs_first &&
                 static_cast<int32_t>(candidate.logprobs.size()) == wanted.prompt_logprobs_count;
        });
    if (found == reported.end()) {
      return absl::InternalError(
          absl::StrCat("no log-probabilities for prompt tokens ", wanted.prompt_logprobs_first,
                       " to ", wanted.prompt_logprobs_first + wanted.prompt_logprobs_count - 1,
                       " of sequence ", wanted.id.value()));
    }
    filed.push_back(*found);
  }
  return absl::OkStatus();
}

bool EndsSequence(const Sequence& sequence, int32_t token) {
  const SamplingParams& sampling = sequence.request->request.sampling;
  if (static_cast<int32_t>(sequence.generated.size()) < sampling.min_tokens) return false;
  return std::find(sampling.end_token_ids.begin(), sampling.end_token_ids.end(), token) !=
         sampling.end_token_ids.end();
}

// Commits and emits one token; the choice may end with it.
void CommitToken(ServingState& state, Sequence& sequence, SampledToken& sampled, absl::Time now,
                 std::vector<Command>& commands) {
  Emit emit = BeginEmission(sequence);
  if (EndsSequence(sequence, sampled.token)) {
    emit.finish = FinishReason::kStop;
  } else {
    emit.tokens.push_back(sampled.token);
    if (sampled.logprobs.has_value()) emit.logprobs.push_back(std::move(*sampled.logprobs));
    sequence.generated.push_back(sampled.token);
    ++state.counters.generation_tokens;
    ++sequence.request->user->served;
    if (static_cast<int32_t>(sequence.generated.size()) == sequence.request->request.max_tokens) {
      emit.finish = FinishReason::kLength;
    }
  }
  const bool ended = emit.finish != FinishReason::kNone;
  commands.push_back(std::move(emit));
  if (ended) {
    EndChoice(state, sequence, now);
  } else if (sequence.state == Sequence::State::kRunning && state.config.prefix_cache) {
    // The token may fill a block whose last row is planned already.
    IndexBlocks(state.ranks[sequence.stay.rank.value()], state.last_step, sequence);
  }
}

// Files prompt log-probabilities with the sequence; one that generates nothing ends with the last.
void CommitPromptLogprobs(ServingState& state, Sequence& sequence, PromptLogprobs& reported,
                          absl::Time now, std::vector<Command>& commands) {
  std::move(reported.logprobs.begin(), reported.logprobs.end(),
            std::back_inserter(sequence.prompt_logprobs));
  if (sequence.request->request.max_tokens > 0) return;
  if (static_cast<int32_t>(sequence.prompt_logprobs.size()) < sequence.prompt_tokens - 1) return;
  Emit emit = BeginEmission(sequence);
  emit.finish = FinishReason::kLength;
  commands.push_back(std::move(emit));
  EndChoice(state, sequence, now);
}

// Ends one choice with an error of its own; all others go on.
void FailChoice(ServingState& state, Sequence& sequence, const std::string& why, absl::Time now,
                std::vector<Command>& commands) {
  Emit emit = BeginEmission(sequence);
  emit.finish = FinishReason::kError;
  emit.error = absl::InternalError(why);
  commands.push_back(std::move(emit));
  EndChoice(state, sequence, now);
}

void CommitShare(ServingState& state, InFlightStep::Share& share, absl::Time now,
                 std::vector<Command>& commands) {
  size_t next_token = 0;
  size_t next_prompt = 0;
  for (Expected& expected : share.expected) {
    SampledToken* token = expected.position < 0 ? nullptr : &share.tokens[next_token++];
    PromptLogprobs* prompt =
        expected.prompt_logprobs_count == 0 ? nullptr : &share.prompt_logprobs[next_prompt++];
    Sequence* sequence = std::exchange(expected.sequence, nullptr);
    if (sequence == nullptr) continue;
    --sequence->results_in_flight;
    const auto failure = std::find_if(
        share.failures.begin(), share.failures.end(),
        [&](const SequenceFailure& failed) { return failed.sequence == expected.id; });
    if (failure != share.failures.end()) {
      FailChoice(state, *sequence, failure->why, now, commands);
      continue;
    }
    if (prompt != nullptr) CommitPromptLogprobs(state, *sequence, *prompt, now, commands);
    if (token != nullptr) CommitToken(state, *sequence, *token, now, commands);
  }
}

}  // namespace

absl::Status FileResults(ServingState& state, RankId rank, const StepDone& event) {
  for (InFlightStep& step : state.in_flight) {
    if (step.id != event.step) continue;
    InFlightStep::Share& share = step.shares[rank.value()];
    if (share.done) return absl::OkStatus();
    absl::Status filed = FileTokens(share.expected, event.tokens, share.tokens);
    if (filed.ok()) {
      filed = FilePromptLogprobs(share.expected, event.prompt_logprobs, share.prompt_logprobs);
    }
    if (!filed.ok()) {
      return absl::InternalError(absl::StrCat("step ", step.id.value(), ": ", filed.message()));
    }
    share.failures = event.failures;
    share.done = true;
    ++step.shares_done;
  }
  return absl::OkStatus();
}

void CommitSteps(ServingState& state, absl::Time now, std::vector<Command>& commands) {
  while (!state.in_flight.empty() &&
         state.in_flight.front().shares_done ==
             static_cast<int32_t>(state.in_flight.front().shares.size())) {
    // Taken off first: what is committed is not in flight any more.
    InFlightStep step = std::move(state.in_flight.front());
    state.in_flight.pop_front();
    state.last_committed = step.id;
    ++state.counters.steps;
    for (size_t r = 0; r < step.shares.size(); ++r) {
      state.ranks[r].committed_tokens.Add(static_cast<int64_t>(step.shares[r].tokens.size()), now);
      CommitShare(state, step.shares[r], now, commands);
    }
    if (!state.in_flight.empty()) state.in_flight.front().began = now;
    state.spare_steps.push_back(std::move(step));
  }
}

std::vector<RankId> OverdueRanks(const ServingState& state, absl::Time now) {
  std::vector<RankId> overdue;
  if (state.in_flight.empty()) return overdue;
  const InFlightStep& step = state.in_flight.front();
  if (now - step.began <= state.config.step_timeout + kReportGrace) return overdue;
  for (size_t r = 0; r < step.shares.size(); ++r) {
    if (!step.shares[r].done) overdue.push_back(RankId(static_cast<int32_t>(r)));
  }
  return overdue;
}

}  // namespace shoal
