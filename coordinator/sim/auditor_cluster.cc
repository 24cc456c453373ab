// SPDX-License-Identifier: Apache-2.0
// What is checked of epochs, placements, plans, blocks, and of what operators are shown.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/sim/auditor.h"

namespace shoal::sim {

// --- Epochs ---

void Auditor::BeginEpoch(const AssignRank& command) {
  if (command.epoch < epoch_) Problem("an old epoch was announced");
  if (formed_) ++counts_.epochs;
  epoch_ = command.epoch;
  members_ = *command.members;
  size_ = static_cast<int>(members_.size() -
                           std::count(members_.begin(), members_.end(), std::nullopt));
  assigned_ = 0;
  over_ = false;
  ready_.clear();
  told_.clear();
  steps_.clear();
  std::erase_if(tables_, [&](const auto& entry) { return !IsMember(entry.first); });
  if (full_placement_ == nullptr) {
    full_placement_ = command.placement;
    if (size_ < config_.workers) Problem("the first epoch lacks a rank");
  }
  if (static_cast<int>(members_.size()) != config_.workers || full_placement_ == nullptr) {
    return Problem("an assignment that contradicts itself");
  }
  std::vector<RankId> absent;
  for (int rank = 0; rank < config_.workers; ++rank) {
    if (!members_[rank].has_value()) absent.push_back(RankId(rank));
  }
  auto placement = full_placement_->Without(absent);  // as every member does
  if (!placement.ok()) return Problem("an epoch that lacks an expert");
  placement_ = *std::move(placement);
  CheckPlacement();
}

// Everything that the full placement says of members, and nothing else.
void Auditor::CheckPlacement() {
  std::vector<RankId> live;
  for (int layer = 1; layer < full_placement_->layers(); ++layer) {
    const int experts = full_placement_->n_routed_experts(layer);
    int copies = 0;
    for (int e = 0; e < experts; ++e) {
      live.clear();
      const auto all = full_placement_->Holders(layer, ExpertId(e));
      for (const RankId rank : all) {
        if (members_[rank.value()].has_value()) live.push_back(rank);
      }
      copies += static_cast<int>(all.size());
      if (static_cast<int>(all.size()) < config_.holders) Problem("too few holders of an expert");
      if (placement_->Holders(layer, ExpertId(e)) != absl::MakeConstSpan(live)) {
        Problem(absl::StrCat("epoch ", epoch_.value(), ": layer ", layer, " expert ", e,
                             " is not where its members hold it"));
      }
    }
    const int most = experts * config_.workers;
    if (copies != std::min(experts * config_.holders + config_.redundant_experts, most)) {
      Problem(absl::StrCat("layer ", layer, " has ", copies, " copies of experts"));
    }
  }
}

void Auditor::Obeyed(const AssignRank& command) {
  const auto found = connected_.find(command.worker);
  if (found == connected_.end()) return Problem("a rank for a worker that is gone");
  if (command.epoch != epoch_) BeginEpoch(command);
  ++assigned_;
  if (*command.members != members_ || command.placement != full_placement_ ||
      members_[command.rank.value()] != command.worker) {
    Problem("an assignment that contradicts another one, or itself");
  }
  if (formed_ && !found->second.holds) Problem("a member that has not loaded");
  if (found->second.rank.has_value() && found->second.rank != command.rank) {
    Problem("a worker that is moved to another rank");
  }
  found->second.rank = command.rank;
}

void Auditor::Obeyed(const LoadExperts& command) {
  const auto found = connected_.find(command.worker);
  if (found == connected_.end()) return Problem("loading by a worker that is gone");
  if (!formed_ || command.placement != full_placement_) Problem("loading something else");
  found->second.rank = command.rank;
}

void Auditor::Obeyed(const EvictWorker& command) {
  const auto found = connected_.find(command.worker);
  if (found == connected_.end()) return;  // a forged one, refused on arrival
  if (command.why.ok()) Problem("evicted without a reason");
  // What a worker says of itself, or what its plans make it say, is never the network's fault.
  const bool own_fault = absl::IsInternal(command.why) || absl::IsInvalidArgument(command.why) ||
                         absl::IsDataLoss(command.why) || absl::IsFailedPrecondition(command.why);
  const bool broken = command.why.message().find("device lost") != absl::string_view::npos;
  if (calm_ || (own_fault && !broken)) Problem("evicted for nothing: " + command.why.ToString());
  if (IsMember(command.worker)) over_ = true;
  connected_.erase(found);
  ++counts_.losses;
}

bool Auditor::Covered() const {
  if (full_placement_ == nullptr) return false;
  std::vector<bool> live(config_.workers, false);
  bool any = false;
  for (const auto& [id, worker] : connected_) {
    if (!worker.holds || !worker.rank.has_value()) continue;
    live[worker.rank->value()] = any = true;
  }
  if (!any) return false;
  for (int layer = 1; layer < full_placement_->layers(); ++layer) {
    for (int e = 0; e < full_placement_->n_routed_experts(layer); ++e) {
      const auto all = full_placement_->Holders(layer, ExpertId(e));
      if (std::none_of(all.begin(), all.end(), [&](RankId r) { return live[r.value()]; })) {
        return false;
      }
    }
  }
  return true;
}

void Auditor::CheckComplete() {
  for (const auto& [id, step] : steps_) {
    if (step.plans != 0 && step.plans != size_) Problem("a step without all members");
  }
  if (over_) {
    if (formed_ && Covered()) Problem("stands still although every expert has a holder");
  } else if (assigned_ != size_) {
    Problem("not all members of an epoch were told, or some twice");
  }
}

// --- Plans ---

void Auditor::Obeyed(const SendPlan& command) {
  if (!connected_.contains(command.worker)) return Problem("a plan for a worker that is gone");
  if (command.plan.epoch != epoch_ || !IsMember(command.worker)) Problem("a plan of no epoch");
  if (static_cast<int>(ready_.size()) < size_) Problem("a plan before all members are ready");
  const StepId step = command.plan.step;
  if (!steps_.contains(step)) {
    if (step <= last_planned_) Problem("steps go backwards");
    last_planned_ = step;
    const auto uncommitted = std::count_if(steps_.begin(), steps_.end(), [&](const auto& other) {
      return other.first > committed_;
    });
    if (uncommitted > 0) ++counts_.planned_ahead;
    if (uncommitted > 1) Problem("three steps in flight");
    if (size_ < config_.workers) ++counts_.absent_steps;
    // Old ones are of no interest any more.
    std::erase_if(steps_, [&](const auto& other) { return other.first < committed_; });
  }
  ++steps_[step].plans;
  CheckBlocks(command);
}

// Every block that a sequence may write to is its own; those it shares with others hold rows that were
// there before it came.
void Auditor::CheckBlocks(const SendPlan& command) {
  const RankPlan& plan = command.plan.plan;
  std::map<SequenceId, Table>& tables = tables_[command.worker];
  const int block_tokens = config_.block_tokens;
  if (told_.insert(command.worker).second) {
    std::map<SequenceId, Table> all = std::exchange(tables, {});
    for (const Rewind& rewind : plan.rewind) {
      const auto found = all.find(rewind.id);
      if (found == all.end()) {
        Problem(absl::StrCat("rewind of sequence ", rewind.id.value(), ", which is not there"));
        continue;
      }
      Table& table = tables[rewind.id] = std::move(found->second);
      table.told = static_cast<size_t>((rewind.rows + block_tokens - 1) / block_tokens);
      ++counts_.rewinds;
    }
  } else if (!plan.rewind.empty()) {
    Problem("a rewind in the middle of an epoch");
  }
  for (const SequenceId id : plan.forget) {
    if (tables.erase(id) == 0) {
      Problem(absl::StrCat("forgets sequence ", id.value(), ", which is not there"));
    }
  }
  for (const NewSequence& entering : plan.new_sequences) {
    if (!tables.try_emplace(entering.id).second) Problem("a sequence enters twice");
    if (static_cast<int32_t>(entering.tokens.size()) > entering.prompt_tokens) ++counts_.replays;
  }
  const int64_t pool = connected_.at(command.worker).blocks;
  for (const SequenceWork& work : plan.work) {
    const auto found = tables.find(work.id);
    if (found == tables.end()) {
      Problem(absl::StrCat("work for sequence ", work.id.value(), ", which is not there"));
      continue;
    }
    Table& table = found->second;
    for (const BlockId block : work.new_blocks) {
      table.blocks.resize(std::max(table.blocks.size(), table.told + 1));
      table.blocks[table.told++] = block;
      const auto end = static_cast<int32_t>(table.told) * block_tokens;
      if (block.value() < 0 || block.value() >= pool) Problem("a block outside the pool");
      if (end <= work.start) continue;  // from the prefix cache: read only
      for (const auto& [id, other] : tables) {
        if (id == work.id) continue;
        if (std::find(other.blocks.begin(), other.blocks.end(), block) == other.blocks.end()) {
          continue;
        }
        Problem(absl::StrCat("block ", block.value(), " is given to sequence ", work.id.value(),
                             " and sequence ", id.value(), " has it"));
      }
    }
  }
}

// --- What operators are shown ---

void Auditor::CheckSnapshot(const ClusterSnapshot& snapshot) {
  if (snapshot.requests_running + snapshot.requests_waiting != live_) {
    Problem("requests miscounted");
  }
  // More may wait only because some that have begun wait again.
  if (snapshot.requests_waiting > config_.max_queued_requests && live_ > were_live_) {
    Problem("the queue has no bound");
  }
  were_live_ = live_;
  if (snapshot.prefix_cache_hits > snapshot.prefix_cache_queries) Problem("more hits than queries");
  const bool may_serve = formed_ && !over_;  // or is connecting, for a moment
  if (snapshot.serving ? !may_serve : may_serve && serving()) {
    Problem("serving, or not, in the wrong moment");
  }
  if (snapshot.paused.empty() != (!formed_ || !over_)) Problem("paused in the wrong moment");
  if (!was_paused_ && !snapshot.paused.empty()) ++counts_.pauses;
  was_paused_ = !snapshot.paused.empty();
  CheckRecoveries(snapshot);
  for (const WorkerSnapshot& worker : snapshot.workers) CheckWorker(worker);
}

void Auditor::CheckWorker(const WorkerSnapshot& worker) {
  if (worker.state != "serving" && worker.state != "draining") return;
  if (!IsMember(worker.worker)) return Problem("a worker serves in no epoch");
  if (worker.running_sequences > config_.max_running_sequences) Problem("too many sequences");
  std::set<BlockId> blocks;
  for (const auto& [id, table] : tables_[worker.worker]) {
    blocks.insert(table.blocks.begin(), table.blocks.end());
  }
  // Those that left since the last plan are in the tables still.
  if (told_.contains(worker.worker) && worker.blocks_used > static_cast<int64_t>(blocks.size())) {
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

void Auditor::CheckRecoveries(const ClusterSnapshot& snapshot) {
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

}  // namespace shoal::sim
