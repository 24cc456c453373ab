// SPDX-License-Identifier: Apache-2.0
// What the events mean by the rules of the protocol, and what is checked of requests and their text.
#include "coordinator/sim/auditor.h"

#include <algorithm>
#include <utility>
#include <variant>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace shoal::sim {

void WorldCounts::Add(const WorldCounts& other) {
  finished += other.finished;
  survived += other.survived;
  failed += other.failed;
  cancelled += other.cancelled;
  rejected += other.rejected;
  epochs += other.epochs;
  deaths += other.deaths;
  restarts += other.restarts;
  outages += other.outages;
  losses += other.losses;
  false_alarms += other.false_alarms;
  pauses += other.pauses;
  rewinds += other.rewinds;
  replays += other.replays;
  steps += other.steps;
  absent_steps += other.absent_steps;
  planned_ahead += other.planned_ahead;
  stale_events += other.stale_events;
  preemptions += other.preemptions;
  cache_hits += other.cache_hits;
  events += other.events;
}

Auditor::Auditor(const CoreConfig& config, const SimModelShape& shape, WorldCounts& counts,
                 std::vector<std::string>& problems)
    : config_(config), shape_(shape), counts_(counts), problems_(problems) {}

void Auditor::Problem(const std::string& what) {
  if (problems_.size() > 20) return;  // one is enough, the others follow from it
  problems_.push_back(
      absl::StrCat("at ", absl::FormatDuration(now_ - absl::UnixEpoch()), ": ", what));
}

bool Auditor::IsMember(WorkerId worker) const {
  return !over_ && std::find(members_.begin(), members_.end(), worker) != members_.end();
}

bool Auditor::IsStale(const Event& event) const {
  if (const auto* done = std::get_if<StepDone>(&event)) {
    return done->epoch != epoch_ || !IsMember(done->worker);
  }
  if (const auto* ready = std::get_if<WorkerReady>(&event)) {
    return ready->epoch != epoch_ || !IsMember(ready->worker);
  }
  return false;
}

// --- Events ---

void Auditor::Before(const Event& event, absl::Time now) {
  now_ = now;
  stale_ = IsStale(event);
  commits_now_ = false;
  ++counts_.events;
  if (const auto* arrived = std::get_if<RequestArrived>(&event)) {
    NoteRequest(arrived->request);
  } else if (const auto* cancelled = std::get_if<RequestCancelled>(&event)) {
    NoteCancel(*cancelled);
  } else if (std::holds_alternative<DrainStarted>(event)) {
    draining_ = true;
  } else if (const auto* joined = std::get_if<WorkerJoined>(&event)) {
    connected_[joined->worker].blocks = joined->cache_blocks;
  } else if (const auto* lost = std::get_if<WorkerLost>(&event)) {
    if (connected_.erase(lost->worker) > 0) ++counts_.losses;
    if (IsMember(lost->worker)) over_ = true;
  } else if (const auto* loaded = std::get_if<WorkerLoaded>(&event)) {
    const auto found = connected_.find(loaded->worker);
    if (found != connected_.end()) found->second.holds = true;
  } else if (const auto* ready = std::get_if<WorkerReady>(&event)) {
    const auto found = connected_.find(ready->worker);
    if (found != connected_.end()) found->second.ready = ready->epoch;
    if (stale_) return;
    found->second.holds = true;
    ready_.insert(ready->worker);
    if (static_cast<int>(ready_.size()) == config_.workers) formed_ = true;
  } else if (const auto* done = std::get_if<StepDone>(&event)) {
    const auto found = connected_.find(done->worker);
    if (found != connected_.end() && found->second.ready != done->epoch) {
      Problem("a worker runs a step of another epoch than it is ready for");
    }
    if (!stale_) NoteReport(*done);
  }
}

void Auditor::NoteRequest(const Request& request) {
  auto [it, added] = clients_.try_emplace(request.id);
  if (!added) return;  // forged: its id is taken
  Client& client = it->second;
  client.request = request;
  ++live_;
  const bool sane = !request.prompt.empty() && request.n >= 1 && request.n <= kMaxChoices &&
                    request.max_tokens >= 0;
  const bool nothing_to_compute =
      request.max_tokens == 0 && (request.prompt.size() == 1 || !request.sampling.prompt_logprobs);
  for (int32_t i = 0; sane && i < request.n; ++i) {
    Choice& choice = client.choices.emplace_back();
    choice.reference = ComputeAlone(shape_, request, i);
    if (nothing_to_compute) choice.reference.prompt_logprobs.clear();
    choice.began = epoch_;
  }
}

void Auditor::NoteCancel(const RequestCancelled& event) {
  const auto found = clients_.find(event.id);
  if (found == clients_.end()) return;
  for (size_t i = 0; i < found->second.choices.size(); ++i) {
    if (!event.choice.has_value() || *event.choice == static_cast<int32_t>(i)) {
      found->second.choices[i].cancelled = true;
    }
  }
}

void Auditor::NoteReport(const StepDone& done) {
  if (!done.status.ok()) {
    over_ = true;
    return;
  }
  const auto found = steps_.find(done.step);
  if (found == steps_.end()) return;
  found->second.reported.insert(done.worker);
  for (const auto& [id, step] : steps_) {
    if (id <= committed_) continue;
    if (static_cast<int>(step.reported.size()) < size_) break;
    committed_ = id;
    commits_now_ = true;
  }
}

void Auditor::After(const Event& event, const std::vector<Command>& commands, bool calm) {
  calm_ = calm;
  if (stale_) {
    ++counts_.stale_events;
    if (!commands.empty()) Problem("a stale event had an effect");
  }
  for (const Command& command : commands) {
    std::visit([&](const auto& c) { Obeyed(c); }, command);
  }
  CheckComplete();
  if (const auto* cancelled = std::get_if<RequestCancelled>(&event)) {
    const auto found = clients_.find(cancelled->id);
    if (found == clients_.end()) return;
    for (const Choice& choice : found->second.choices) {
      if (choice.cancelled && !choice.ended) Problem("a cancelled choice goes on");
    }
  }
}

void Auditor::HadNoEffect(const Event& event, const std::vector<Command>& commands) {
  ++counts_.stale_events;
  if (!commands.empty()) {
    Problem(absl::StrCat("nonsense of kind ", event.index(), " had an effect"));
  }
}

// --- Requests ---

std::vector<RequestId> Auditor::LiveRequests() const {
  std::vector<RequestId> live;
  for (const auto& [id, client] : clients_) {
    const auto ended = [](const Choice& choice) { return choice.ended; };
    if (client.rejected) continue;
    if (std::all_of(client.choices.begin(), client.choices.end(), ended)) continue;
    live.push_back(id);
  }
  return live;
}

void Auditor::Obeyed(const Reject& command) {
  const auto found = clients_.find(command.request);
  if (found == clients_.end()) return Problem("a stranger was rejected");
  Client& client = found->second;
  if (client.rejected) Problem("rejected twice");
  for (Choice& choice : client.choices) {
    if (choice.said > 0 || choice.ended) Problem("rejected after it said something");
    choice.ended = true;
  }
  client.rejected = true;
  --live_;
  ++counts_.rejected;
  const absl::StatusCode code = command.why.code();
  const bool full = code == absl::StatusCode::kResourceExhausted;
  if (full != (command.retry_after > absl::ZeroDuration())) Problem("odd retry_after");
  if (code == absl::StatusCode::kUnavailable && !draining_) {
    Problem("unavailable, and not draining");
  }
}

void Auditor::Obeyed(const Emit& command) {
  const auto found = clients_.find(command.request);
  if (found == clients_.end() || found->second.rejected || command.choice < 0 ||
      command.choice >= static_cast<int32_t>(found->second.choices.size())) {
    return Problem("an emission for nobody");
  }
  Client& client = found->second;
  Choice& choice = client.choices[command.choice];
  const Reference& reference = choice.reference;
  const auto name = [&] {
    return absl::StrCat("request ", command.request.value(), " choice ", command.choice);
  };
  if (choice.ended) return Problem(name() + ": an emission after the end");
  if (command.first_index != static_cast<int32_t>(choice.said)) {
    return Problem(absl::StrCat(name(), ": said ", choice.said, " tokens, goes on at ",
                                command.first_index));
  }
  const bool error = command.finish == FinishReason::kError;
  if (error == command.error.ok()) Problem("an error without a reason, or the reverse");
  if (choice.said == 0 && !error && command.finish != FinishReason::kCancelled &&
      command.prompt_logprobs != reference.prompt_logprobs) {
    Problem(name() + ": wrong prompt log-probabilities");
  }
  if (choice.said > 0 && !command.prompt_logprobs.empty()) {
    Problem(name() + ": prompt log-probabilities twice");
  }
  const bool wants_logprobs = client.request.sampling.top_logprobs >= 0;
  if (command.logprobs.size() != (wants_logprobs ? command.tokens.size() : 0)) {
    Problem(name() + ": log-probabilities missing or unasked");
  }
  if ((!command.tokens.empty() || command.finish == FinishReason::kStop) && !commits_now_) {
    Problem(name() + ": a token of a step that not all members have reported");
  }
  if (!command.tokens.empty()) last_token_ = now_;
  for (size_t i = 0; i < command.tokens.size(); ++i, ++choice.said) {
    if (choice.said >= reference.tokens.size() ||
        command.tokens[i] != reference.tokens[choice.said] ||
        (wants_logprobs && !(command.logprobs[i] == reference.logprobs[choice.said]))) {
      return Problem(absl::StrCat(name(), ": other text than undisturbed, at token ", choice.said));
    }
  }
  if (command.finish == FinishReason::kNone) {
    if (command.tokens.empty()) Problem("an empty emission");
    return;
  }
  choice.ended = true;
  const auto ended = [](const Choice& c) { return c.ended; };
  if (std::all_of(client.choices.begin(), client.choices.end(), ended)) --live_;
  CheckEnd(client, choice, command);
}

void Auditor::CheckEnd(const Client& client, const Choice& choice, const Emit& emit) {
  switch (emit.finish) {
    case FinishReason::kCancelled:
      ++counts_.cancelled;
      if (!choice.cancelled) Problem("cancelled, and nobody asked");
      return;
    case FinishReason::kError: {
      ++counts_.failed;
      if (absl::IsInternal(emit.error)) {
        if (emit.finish != choice.reference.finish ||
            choice.said != choice.reference.tokens.size()) {
          Problem(
              absl::StrCat("request ", emit.request.value(), " failed: ", emit.error.ToString()));
        }
      } else if (absl::IsDeadlineExceeded(emit.error)) {
        if (client.request.deadline > now_) Problem("failed before its deadline");
      } else if (absl::IsInvalidArgument(emit.error) ||
                 absl::StrContains(emit.error.message(), "less memory")) {
        // The only rank that could hold it was taken over by a worker with fewer blocks.
        int64_t most = 0;
        for (const auto& member : members_) {
          if (member.has_value()) most = std::max(most, connected_.at(*member).blocks);
        }
        const auto rows =
            static_cast<int64_t>(client.request.prompt.size()) + client.request.max_tokens - 1;
        if (rows <= most * config_.block_tokens) Problem("failed as too large, and is not");
      } else if (!absl::IsUnavailable(emit.error) || !draining_ || formed_) {
        Problem(absl::StrCat("request ", emit.request.value(), " failed: ", emit.error.ToString()));
      }
      return;
    }
    default:
      ++counts_.finished;
      if (epoch_ > choice.began && choice.began > Epoch(0)) ++counts_.survived;
      if (emit.finish != choice.reference.finish || choice.said != choice.reference.tokens.size()) {
        Problem(absl::StrCat("request ", emit.request.value(), " ended early or otherwise"));
      }
  }
}

void Auditor::Obeyed(const Drained&) {
  if (drained_ || !draining_) Problem("drained twice, or unasked");
  drained_ = true;
  if (!LiveRequests().empty()) Problem("drained with a request left");
}

// --- The end ---

std::string Auditor::Unsettled(const ClusterSnapshot& snapshot) const {
  if (const std::vector<RequestId> live = LiveRequests(); !live.empty()) {
    return absl::StrCat("request ", live.front().value(), " and ", live.size() - 1,
                        " others have not ended");
  }
  if (static_cast<int>(snapshot.workers.size()) != config_.workers) return "not all ranks are held";
  for (const WorkerSnapshot& worker : snapshot.workers) {
    if (worker.state != "serving" && worker.state != "draining") {
      return absl::StrCat("rank ", worker.rank.value(), " is not back: ", worker.state);
    }
  }
  if (draining_ && !drained_) return "not drained";
  return "";
}

void Auditor::CheckSettled(const ClusterSnapshot& snapshot) {
  for (const WorkerSnapshot& worker : snapshot.workers) {
    if (worker.blocks_used != 0 || worker.running_sequences != 0) {
      Problem(absl::StrCat("rank ", worker.rank.value(), " is left with ", worker.blocks_used,
                           " blocks and ", worker.running_sequences, " sequences"));
    }
  }
  if (snapshot.requests_running + snapshot.requests_waiting != 0) Problem("requests are left");
  if (snapshot.least_holders < config_.holders) Problem("too few holders with everybody back");
  if (!snapshot.paused.empty()) Problem("paused with everybody back");
}

}  // namespace shoal::sim
