// SPDX-License-Identifier: Apache-2.0
// What a World does with the core's commands, and all that it checks about them.
#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/property/core_world.h"

namespace shoal::testing {

// --- Events ---

void World::Feed(const Event& event) {
  const bool stale = IsStale(event);
  commits_now_ = false;
  somebody_hangs_ = std::any_of(workers_.begin(), workers_.end(), [](const auto& entry) {
    return entry.second.hangs || entry.second.silent;
  });
  Note(event);
  std::vector<Command> commands;
  core_->Step(event, now_, commands);
  if (stale) {
    ++counts.stale_events;
    if (!commands.empty()) Problem("a stale event had an effect");
  }
  for (const Command& command : commands) {
    Digest(command);
    std::visit([&](const auto& c) { Obey(c); }, command);
  }
  CheckComplete();
  if (++feeds_ % 4 == 0 || !commands.empty()) CheckSnapshot();
}

void World::FeedStale(const Event& event) {
  ++counts.stale_events;
  std::vector<Command> commands;
  core_->Step(event, now_, commands);
  if (!commands.empty()) Problem(absl::StrCat("nonsense of kind ", event.index(), " had an effect"));
}

bool World::IsMember(WorkerId worker) const {
  return !over_ && std::find(members_.begin(), members_.end(), worker) != members_.end();
}

bool World::IsStale(const Event& event) const {
  if (const auto* done = std::get_if<StepDone>(&event)) {
    return done->epoch != epoch_ || !IsMember(done->worker);
  }
  if (const auto* ready = std::get_if<WorkerReady>(&event)) {
    return ready->epoch != epoch_ || !IsMember(ready->worker);
  }
  return false;
}

// What the event means, by the rules of the protocol and not by what the core makes of it.
void World::Note(const Event& event) {
  if (const auto* lost = std::get_if<WorkerLost>(&event)) {
    holders_.erase(lost->worker);
    if (IsMember(lost->worker)) over_ = true;
  } else if (const auto* loaded = std::get_if<WorkerLoaded>(&event)) {
    holders_.insert(loaded->worker);
  } else if (const auto* ready = std::get_if<WorkerReady>(&event)) {
    if (IsStale(event)) return;
    holders_.insert(ready->worker);
    ready_.insert(ready->worker);
    if (static_cast<int>(ready_.size()) == config_.workers) formed_ = true;
  } else if (const auto* done = std::get_if<StepDone>(&event)) {
    if (IsStale(event)) return;
    if (!done->status.ok()) {
      over_ = true;
      return;
    }
    steps_[done->step].reported.insert(done->worker);
    for (const auto& [id, step] : steps_) {
      if (id <= committed_) continue;
      if (static_cast<int>(step.reported.size()) < size_) break;
      committed_ = id;
      commits_now_ = true;
    }
  }
}

// --- The core's commands ---

void World::BeginEpoch(const AssignRank& command) {
  if (command.epoch < epoch_) Problem("an old epoch was announced");
  if (formed_) ++counts.epochs;
  epoch_ = command.epoch;
  members_ = command.members;
  size_ = static_cast<int>(members_.size() -
                           std::count(members_.begin(), members_.end(), std::nullopt));
  assigned_ = 0;
  over_ = false;
  ready_.clear();
  told_.clear();
  steps_.clear();
  placement_ = command.placement;
  std::erase_if(tables_, [&](const auto& entry) { return !IsMember(entry.first); });
  std::erase_if(contributions_, [&](const auto& entry) {
    return entry.first.first.value() + 3 < epoch_.value();
  });
  if (static_cast<int>(members_.size()) != config_.workers || placement_ == nullptr) {
    return Problem("an assignment that contradicts itself");
  }
  CheckPlacement(command);
}

// Everything that the full placement says of members, and nothing else.
void World::CheckPlacement(const AssignRank& command) {
  if (full_placement_ == nullptr) {
    full_placement_ = command.placement;
    if (size_ < config_.workers) Problem("the first epoch lacks a rank");
  }
  for (int layer = 1; layer < full_placement_->layers(); ++layer) {
    for (int e = 0; e < full_placement_->n_routed_experts(layer); ++e) {
      std::vector<RankId> live;
      const auto all = full_placement_->Holders(layer, ExpertId(e));
      for (const RankId rank : all) {
        if (members_[rank.value()].has_value()) live.push_back(rank);
      }
      if (static_cast<int>(all.size()) < config_.holders) Problem("too few holders of an expert");
      if (live.empty()) Problem("an epoch that lacks an expert");
      if (placement_->Holders(layer, ExpertId(e)) != absl::MakeConstSpan(live)) {
        Problem("an epoch's placement is not that of its members");
      }
    }
  }
}

void World::Obey(const AssignRank& command) {
  auto it = workers_.find(command.worker);
  if (it == workers_.end()) return Problem("a rank for a worker that is gone");
  if (command.epoch != epoch_) BeginEpoch(command);
  ++assigned_;
  if (command.members != members_ || command.placement != placement_ ||
      members_[command.rank.value()] != command.worker) {
    Problem("an assignment that contradicts another one, or itself");
  }
  if (formed_ && !holders_.contains(command.worker)) Problem("a member that has not loaded");
  it->second.worker->Receive(command);
}

void World::Obey(const LoadExperts& command) {
  auto it = workers_.find(command.worker);
  if (it == workers_.end()) return Problem("loading by a worker that is gone");
  if (!formed_ || command.placement != full_placement_) Problem("loading something else");
  it->second.worker->Receive(command);
}

void World::Obey(const SendPlan& command) {
  auto it = workers_.find(command.worker);
  if (it == workers_.end()) return Problem("a plan for a worker that is gone");
  if (command.plan.epoch != epoch_ || !IsMember(command.worker)) Problem("a plan of no epoch");
  if (static_cast<int>(ready_.size()) < size_) Problem("a plan before all members are ready");
  const StepId step = command.plan.step;
  if (!steps_.contains(step)) {
    if (step <= last_planned_) Problem("steps go backwards");
    last_planned_ = step;
    const auto uncommitted = std::count_if(steps_.begin(), steps_.end(), [&](const auto& other) {
      return other.first > committed_;
    });
    if (uncommitted > 0) ++counts.planned_ahead;
    if (uncommitted > 1) Problem("three steps in flight");
    if (size_ < config_.workers) ++counts.absent_steps;
  }
  ++steps_[step].plans;
  const RankPlan& plan = command.plan.plan;
  std::map<SequenceId, Table>& tables = tables_[command.worker];
  if (told_.insert(command.worker).second) {
    std::map<SequenceId, Table> all = std::exchange(tables, {});
    for (const Rewind& rewind : plan.rewind) {
      Table& table = tables[rewind.id] = std::move(all[rewind.id]);
      table.told =
          static_cast<size_t>((rewind.rows + config_.block_tokens - 1) / config_.block_tokens);
      ++counts.rewinds;
    }
  }
  for (const SequenceId id : plan.forget) tables.erase(id);
  for (const SequenceWork& work : plan.work) {
    Table& table = tables[work.id];
    for (const BlockId block : work.new_blocks) {
      table.blocks.resize(std::max(table.blocks.size(), table.told + 1));
      table.blocks[table.told++] = block;
    }
  }
  it->second.worker->Receive(command.plan);
}

void World::Obey(const EvictWorker& command) {
  auto it = workers_.find(command.worker);
  if (it == workers_.end()) return;  // a bogus one
  // Of several that are not ready, held up by one that hangs, all may be blamed: they come back.
  const bool held_up = absl::IsDeadlineExceeded(command.why) && it->second.worker->connecting() &&
                       somebody_hangs_;
  if (!it->second.blamed && !held_up) Problem("evicted for nothing: " + command.why.ToString());
  if (command.why.ok()) Problem("evicted without a reason");
  if (IsMember(command.worker)) over_ = true;
  holders_.erase(command.worker);
  Plug plug;
  plug.host = it->second.host;
  plug.worker = Unplug(command.worker);
  if (Chance(60)) unplugged_.push_back(std::move(plug));  // it was only thought dead
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
  if ((!command.tokens.empty() || command.finish == FinishReason::kStop) && !commits_now_) {
    Problem("a token of a step that not all members have reported");
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
      if (absl::IsDeadlineExceeded(emit.error)) {
        if (client.request.deadline > now_) Problem("failed before its deadline");
      } else if (absl::IsInvalidArgument(emit.error)) {
        // The only rank that could hold it was taken over by a worker with fewer blocks.
        int64_t most = 0;
        for (const auto& member : members_) {
          if (member.has_value()) most = std::max(most, workers_.at(*member).worker->blocks());
        }
        const auto rows =
            static_cast<int64_t>(client.request.prompt.size()) + client.request.max_tokens - 1;
        if (rows <= most * config_.block_tokens) Problem("failed as too large, and is not");
      } else if (!absl::IsUnavailable(emit.error) || !draining_ || (formed_ && !over_)) {
        Problem("failed: " + emit.error.ToString());
      }
      return;
    }
    default:
      ++counts.finished;
      if (epoch_ > choice.began && choice.began > Epoch(0)) ++counts.survived_texts;
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

void World::CheckComplete() {
  for (const auto& [id, step] : steps_) {
    if (step.plans != 0 && step.plans != size_) Problem("a step without all members");
  }
  if (over_) {
    if (formed_ && Covered()) Problem("stands still although every expert has a holder");
  } else if (assigned_ != size_) {
    Problem("not all members of an epoch were told, or some twice");
  }
}

bool World::Covered() const {
  std::set<RankId> live;
  for (const WorkerId id : holders_) {
    const auto it = workers_.find(id);
    if (it != workers_.end()) live.insert(*it->second.worker->rank());
  }
  if (live.empty()) return false;
  for (int layer = 1; layer < full_placement_->layers(); ++layer) {
    for (int e = 0; e < full_placement_->n_routed_experts(layer); ++e) {
      const auto all = full_placement_->Holders(layer, ExpertId(e));
      if (std::none_of(all.begin(), all.end(), [&](RankId r) { return live.contains(r); })) {
        return false;
      }
    }
  }
  return true;
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
  if (snapshot.serving != (formed_ && !over_)) Problem("serving, or not, in the wrong moment");
  if (snapshot.paused.empty() != (!formed_ || !over_)) Problem("paused in the wrong moment");
  if (!was_paused_ && !snapshot.paused.empty()) ++counts.pauses;
  was_paused_ = !snapshot.paused.empty();
  CheckRecoveries(snapshot);
  for (const WorkerSnapshot& worker : snapshot.workers) CheckWorker(worker);
}

void World::CheckWorker(const WorkerSnapshot& worker) {
  if (worker.state != "serving" && worker.state != "draining") return;
  if (!IsMember(worker.worker)) return Problem("a worker serves in no epoch");
  if (worker.running_sequences > config_.max_running_sequences) Problem("too many sequences");
  std::set<BlockId> blocks;
  for (const auto& [id, table] : tables_[worker.worker]) {
    blocks.insert(table.blocks.begin(), table.blocks.end());
  }
  // Those that left since the last plan are in the tables still.
  if (worker.blocks_used > static_cast<int64_t>(blocks.size())) {
    Problem(absl::StrCat("rank ", worker.rank.value(), ": ", worker.blocks_used,
                         " blocks in use, plans name ", blocks.size()));
  }
  int alone = 0;
  for (int layer = 1; layer < placement_->layers(); ++layer) {
    for (int e = 0; e < placement_->n_routed_experts(layer); ++e) {
      const auto holders = placement_->Holders(layer, ExpertId(e));
      if (holders.size() == 1 && holders[0] == worker.rank) ++alone;
    }
  }
  if (worker.death.sequences != worker.running_sequences || worker.death.experts_lost != alone ||
      worker.death.pauses != (alone > 0 || size_ == 1)) {
    Problem("the cost of a death is wrong");
  }
}

void World::CheckRecoveries(const ClusterSnapshot& snapshot) {
  if (snapshot.recoveries.size() > 8) Problem("too many recoveries kept");
  for (const Recovery& recovery : snapshot.recoveries) {
    if (recovery.heard > recovery.suspected || recovery.suspected > recovery.decided ||
        recovery.decided > recovery.fenced || recovery.fenced > recovery.resumed) {
      Problem("a recovery's phases are out of order");
    }
    if (recovery.who.empty() || recovery.epoch > snapshot.epoch) Problem("an odd recovery");
    const bool fenced = !over_ && static_cast<int>(ready_.size()) == size_;
    if (fenced && recovery.fenced == absl::InfiniteFuture()) Problem("fenced, and not noted");
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
  } else if (const auto* load = std::get_if<LoadExperts>(&command)) {
    add(load->worker.value());
    add(load->rank.value());
  } else if (const auto* send = std::get_if<SendPlan>(&command)) {
    add(send->worker.value());
    add(send->plan.step.value());
    for (const Rewind& rewind : send->plan.plan.rewind) {
      add(rewind.id.value());
      add(rewind.tokens * 1000 + rewind.rows);
    }
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
