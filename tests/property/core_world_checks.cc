// SPDX-License-Identifier: Apache-2.0
// What a World does with the core's commands, and all that it checks about them.
#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/property/core_world.h"

namespace shoal::testing {

// --- The core's commands ---

void World::Feed(const Event& event) {
  std::vector<Command> commands;
  core_->Step(event, now_, commands);
  for (const Command& command : commands) {
    Digest(command);
    std::visit([&](const auto& c) { Obey(c); }, command);
  }
  CheckPlansComplete();
  CheckSnapshot();
}

void World::Obey(const AssignRank& command) {
  auto it = workers_.find(command.worker);
  if (it == workers_.end()) return Problem("a rank for a worker that is gone");
  if (command.epoch < epoch_) return Problem("an old epoch was announced");
  if (command.epoch != epoch_) {
    epoch_ = command.epoch;
    steps_.clear();
    tables_.clear();
  }
  if (static_cast<int>(command.members.size()) != config_.workers ||
      command.members[command.rank.value()] != command.worker || command.placement == nullptr) {
    Problem("an assignment that contradicts itself");
  }
  for (const WorkerId member : command.members) {
    if (!workers_.contains(member)) Problem("a member that is gone");
  }
  it->second.worker->Assign(command);
}

void World::Obey(const SendPlan& command) {
  auto it = workers_.find(command.worker);
  if (it == workers_.end()) return Problem("a plan for a worker that is gone");
  if (command.plan.epoch != epoch_) Problem("a plan of another epoch");
  const StepId step = command.plan.step;
  if (!steps_.contains(step)) {
    if (step <= last_planned_) Problem("steps go backwards");
    last_planned_ = step;
    auto before = steps_.empty() ? steps_.end() : std::prev(steps_.end());
    if (before != steps_.end() && before->second.reported < config_.workers) {
      ++counts.planned_ahead;
      if (before != steps_.begin() && std::prev(before)->second.reported < config_.workers) {
        Problem("three steps in flight");
      }
    }
  }
  ++steps_[step].plans;
  auto& tables = tables_[command.worker];
  for (const SequenceId id : command.plan.plan.forget) tables.erase(id);
  for (const SequenceWork& work : command.plan.plan.work) {
    auto& table = tables[work.id];
    table.insert(table.end(), work.new_blocks.begin(), work.new_blocks.end());
  }
  it->second.worker->Receive(command.plan);
}

void World::Obey(const EvictWorker& command) {
  auto it = workers_.find(command.worker);
  if (it == workers_.end()) return;  // a bogus one
  if (!it->second.blamed) Problem("evicted for nothing: " + command.why.ToString());
  if (command.why.ok()) Problem("evicted without a reason");
  if (it->second.silent || it->second.hangs) ++counts.faults;
  workers_.erase(it);
}

void World::Obey(const Reject& command) {
  auto it = clients_.find(command.request);
  if (it == clients_.end()) return Problem("a stranger was rejected");
  Client& client = it->second;
  if (client.rejected) Problem("rejected twice");
  for (Choice& choice : client.choices) {
    if (choice.said > 0 || choice.ended) Problem("rejected after it said something");
    choice.ended = true;
  }
  client.rejected = true;
  ++counts.rejected;
  const absl::StatusCode code = command.why.code();
  const bool full = code == absl::StatusCode::kResourceExhausted;
  if (full != (command.retry_after > absl::ZeroDuration())) Problem("odd retry_after");
  if (code == absl::StatusCode::kUnavailable && !draining_)
    Problem("unavailable, and not draining");
}

void World::Obey(const Emit& command) {
  auto it = clients_.find(command.request);
  if (it == clients_.end() || it->second.rejected || command.choice < 0 ||
      command.choice >= it->second.request.n) {
    return Problem("an emission for nobody");
  }
  Client& client = it->second;
  Choice& choice = client.choices[command.choice];
  const Reference& reference = choice.reference;
  if (choice.ended) return Problem("an emission after the end");
  if (command.first_index != static_cast<int32_t>(choice.said)) Problem("a gap in the emissions");
  const bool error = command.finish == FinishReason::kError;
  if (error == command.error.ok()) Problem("an error without a reason, or the reverse");
  if (choice.said == 0 && !error && command.finish != FinishReason::kCancelled &&
      command.prompt_logprobs != reference.prompt_logprobs) {
    Problem("wrong prompt log-probabilities");
  }
  if (choice.said > 0 && !command.prompt_logprobs.empty())
    Problem("prompt log-probabilities twice");
  const bool wants_logprobs = client.request.sampling.top_logprobs >= 0;
  if (command.logprobs.size() != (wants_logprobs ? command.tokens.size() : 0)) {
    Problem("log-probabilities missing or unasked");
  }
  for (size_t i = 0; i < command.tokens.size(); ++i, ++choice.said) {
    if (choice.said >= reference.tokens.size() ||
        command.tokens[i] != reference.tokens[choice.said] ||
        (wants_logprobs && !(command.logprobs[i] == reference.logprobs[choice.said]))) {
      return Problem(absl::StrCat("request ", command.request.value(), " choice ", command.choice,
                                  ": other text than alone, at ", choice.said));
    }
  }
  if (command.finish == FinishReason::kNone) {
    if (command.tokens.empty()) Problem("an empty emission");
    return;
  }
  choice.ended = true;
  CheckEnd(client, choice, command);
}

void World::CheckEnd(const Client& client, const Choice& choice, const Emit& emit) {
  switch (emit.finish) {
    case FinishReason::kCancelled:
      ++counts.cancelled;
      if (!choice.cancelled) Problem("cancelled, and nobody asked");
      return;
    case FinishReason::kError: {
      ++counts.failed;
      const int64_t faults = counts.faults - choice.faults_at_start;
      if (absl::IsDeadlineExceeded(emit.error)) {
        if (client.request.deadline > now_) Problem("failed before its deadline");
      } else if (absl::IsInvalidArgument(emit.error)) {
        // A replacement with fewer blocks came, or it is what a cancellation left of a queued
        // request.
        const auto cancelled = [](const Choice& c) { return c.cancelled; };
        if (faults == 0 && std::none_of(client.choices.begin(), client.choices.end(), cancelled)) {
          Problem("found too long after it started");
        }
      } else if (!absl::IsUnavailable(emit.error)) {
        Problem("odd error: " + emit.error.ToString());
      } else if (faults == 0 && !draining_) {
        Problem("failed without a fault: " + emit.error.ToString());
      } else if (config_.replay_on_failure && faults <= 3 && !draining_) {
        Problem("not replayed: " + emit.error.ToString());
      }
      return;
    }
    default:
      ++counts.finished;
      if (counts.faults > choice.faults_at_start) ++counts.replayed_texts;
      if (emit.finish != choice.reference.finish || choice.said != choice.reference.tokens.size()) {
        Problem(absl::StrCat("request ", emit.request.value(), " ended early or otherwise"));
      }
  }
}

void World::Obey(const Drained&) {
  if (drained_ || !draining_) Problem("drained twice, or unasked");
  drained_ = true;
  for (const auto& [id, client] : clients_) {
    for (const Choice& choice : client.choices) {
      if (!choice.ended) Problem("drained with a request left");
    }
  }
}

void World::CheckPlansComplete() {
  for (const auto& [id, step] : steps_) {
    if (step.plans != 0 && step.plans != config_.workers) Problem("a step without all ranks");
  }
}

void World::CheckSnapshot() {
  const ClusterSnapshot snapshot = core_->Snapshot(now_);
  int64_t live = 0;
  for (const auto& [id, client] : clients_) {
    live += std::any_of(client.choices.begin(), client.choices.end(),
                        [](const Choice& c) { return !c.ended; });
  }
  if (snapshot.requests_running + snapshot.requests_waiting != live) Problem("requests miscounted");
  if (snapshot.requests_waiting > config_.max_queued_requests) Problem("the queue has no bound");
  if (snapshot.prefix_cache_hits > snapshot.prefix_cache_queries) Problem("more hits than queries");
  if (!snapshot.serving) return;
  for (const WorkerSnapshot& worker : snapshot.workers) {
    if (worker.running_sequences > config_.max_running_sequences) Problem("too many sequences");
    std::set<BlockId> blocks;
    for (const auto& [id, table] : tables_[worker.worker])
      blocks.insert(table.begin(), table.end());
    // Those that left since the last plan are in the tables still.
    if (worker.blocks_used > static_cast<int64_t>(blocks.size())) {
      Problem(absl::StrCat("rank ", worker.rank.value(), ": ", worker.blocks_used,
                           " blocks in use, plans name ", blocks.size()));
    }
  }
}

void World::Digest(const Command& command) {
  const auto add = [&](int64_t value) {
    transcript = MixBits(transcript, static_cast<uint64_t>(value));
  };
  add(static_cast<int64_t>(command.index()));
  if (const auto* assign = std::get_if<AssignRank>(&command)) {
    add(assign->worker.value());
    add(assign->epoch.value());
    add(assign->rank.value());
  } else if (const auto* send = std::get_if<SendPlan>(&command)) {
    add(send->worker.value());
    add(send->plan.step.value());
    for (const NewSequence& entering : send->plan.plan.new_sequences) {
      add(entering.id.value());
      for (int32_t token : entering.tokens) add(token);
    }
    for (const SequenceWork& work : send->plan.plan.work) {
      add(work.id.value());
      add(work.start * 1000 + work.count);
      for (const BlockId block : work.new_blocks) add(block.value());
    }
    for (const SequenceId id : send->plan.plan.forget) add(id.value());
  } else if (const auto* emit = std::get_if<Emit>(&command)) {
    add(emit->request.value() * 1000 + emit->choice);
    for (int32_t token : emit->tokens) add(token);
    add(static_cast<int64_t>(emit->finish));
  } else if (const auto* reject = std::get_if<Reject>(&command)) {
    add(reject->request.value());
    add(static_cast<int64_t>(reject->why.code()));
    add(absl::ToInt64Nanoseconds(reject->retry_after));
  } else if (const auto* evict = std::get_if<EvictWorker>(&command)) {
    add(evict->worker.value());
  }
}

}  // namespace shoal::testing
