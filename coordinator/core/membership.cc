// SPDX-License-Identifier: Apache-2.0
#include "coordinator/core/membership.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace shoal {
namespace {

// Block ids are 32 bits wide and each block costs the core some bytes; beyond this many, blocks of
// a worker are not used.
constexpr int64_t kMaxBlocks = int64_t{1} << 24;
// Standbys beyond the size of the unit.
constexpr size_t kExtraStandbys = 16;

}  // namespace

Membership::Membership(const CoreConfig& config, std::shared_ptr<const ExpertPlacement> placement)
    : world_size_(config.workers),
      heartbeat_timeout_(config.heartbeat_timeout),
      step_timeout_(config.step_timeout),
      loading_timeout_(config.loading_timeout),
      placement_(std::move(placement)),
      ranks_(config.workers),
      last_known_(config.workers) {}

void Membership::Joined(const WorkerJoined& event, absl::Time now, std::vector<Command>& commands) {
  if (members_.contains(event.worker)) return;
  const auto refuse = [&](absl::Status why) {
    commands.push_back(EvictWorker{event.worker, std::move(why)});
  };
  if (event.cache_blocks < 1) {
    return refuse(absl::InvalidArgumentError(absl::StrCat("the worker offers ", event.cache_blocks,
                                                          " cache blocks, at least 1 is needed")));
  }
  if (event.wanted_rank.has_value() &&
      (event.wanted_rank->value() < 0 || event.wanted_rank->value() >= world_size_)) {
    return refuse(absl::InvalidArgumentError(
        absl::StrCat("the worker wants rank ", event.wanted_rank->value(), " of ", world_size_)));
  }
  if (members_.size() >= 2 * static_cast<size_t>(world_size_) + kExtraStandbys) {
    return refuse(absl::ResourceExhaustedError(
        absl::StrCat(members_.size(), " workers are here for ", world_size_, " ranks")));
  }
  last_epoch_ = std::max(last_epoch_, event.last_epoch);
  Member& member = members_[event.worker];
  member.id = event.worker;
  member.host = event.host;
  member.pid = event.pid;
  member.cache_blocks = std::min(event.cache_blocks, kMaxBlocks);
  member.last_heard = now;
  if (!GiveRank(member, event.wanted_rank)) {
    const std::string holder = Describe(*ranks_[event.wanted_rank->value()]);
    members_.erase(event.worker);
    return refuse(absl::AlreadyExistsError(
        absl::StrCat("rank ", event.wanted_rank->value(), " is held by ", holder)));
  }
  Announce(now, commands);
}

bool Membership::GiveRank(Member& member, std::optional<RankId> wanted) {
  std::optional<RankId> rank = wanted.has_value() ? wanted : LowestFreeRank();
  if (!rank.has_value()) return true;  // a standby
  std::optional<WorkerId>& place = ranks_[rank->value()];
  Member* displaced = nullptr;
  if (place.has_value()) {
    Member& holder = members_.at(*place);
    if (holder.wants_rank) return false;
    if (holder.assigned) {
      // Its wish came too late; any other rank will do, or waiting for one.
      rank = LowestFreeRank();
      if (!rank.has_value()) return true;
    } else {
      holder.rank.reset();
      displaced = &holder;
    }
  }
  member.rank = rank;
  member.wants_rank = wanted.has_value() && *wanted == *rank;
  ranks_[rank->value()] = member.id;
  last_known_[rank->value()] = member;
  return displaced == nullptr || GiveRank(*displaced, std::nullopt);
}

std::optional<RankId> Membership::LowestFreeRank() const {
  const auto free = std::find(ranks_.begin(), ranks_.end(), std::nullopt);
  if (free == ranks_.end()) return std::nullopt;
  return RankId(static_cast<int32_t>(free - ranks_.begin()));
}

std::optional<absl::Status> Membership::Remove(WorkerId worker, absl::string_view why) {
  auto it = members_.find(worker);
  if (it == members_.end()) return std::nullopt;
  absl::Status what = absl::UnavailableError(absl::StrCat(Describe(worker), " was lost: ", why));
  const std::optional<RankId> rank = it->second.rank;
  members_.erase(it);
  if (!rank.has_value()) return std::nullopt;
  ranks_[rank->value()].reset();
  for (auto& [id, standby] : members_) {  // by the order of joining
    if (standby.rank.has_value()) continue;
    GiveRank(standby, std::nullopt);
    break;
  }
  if (!announced_) return std::nullopt;
  return what;
}

std::optional<absl::Status> Membership::Lost(WorkerId worker, const std::string& why,
                                             absl::Time now, std::vector<Command>& commands) {
  std::optional<absl::Status> what = Remove(worker, why);
  if (what.has_value()) EndEpoch();
  Announce(now, commands);
  return what;
}

std::optional<absl::Status> Membership::Evict(const std::vector<Eviction>& evictions,
                                              absl::Time now, std::vector<Command>& commands) {
  std::optional<absl::Status> first;
  for (const Eviction& eviction : evictions) {
    if (!members_.contains(eviction.worker)) continue;  // named twice
    commands.push_back(EvictWorker{eviction.worker, eviction.why});
    std::optional<absl::Status> what = Remove(eviction.worker, eviction.why.message());
    if (!first.has_value()) first = std::move(what);
  }
  if (first.has_value()) EndEpoch();
  Announce(now, commands);
  return first;
}

std::optional<absl::Status> Membership::Tick(absl::Time now, std::vector<Command>& commands) {
  std::vector<Eviction> out;
  for (auto& [id, member] : members_) {
    // Overdue at two Ticks in a row: if it was the coordinator that stood still, the heartbeats
    // that piled up meanwhile are read between them.
    const bool overdue = now - member.last_heard > heartbeat_timeout_;
    if (overdue && member.silent) {
      out.push_back({id, absl::UnavailableError(absl::StrCat(
                             "no heartbeat for ", absl::FormatDuration(now - member.last_heard)))});
    }
    member.silent = overdue;
  }
  if (announced_ && unready_ > 0 && now > ready_by_) {
    for (const WorkerId id : Unready()) {
      out.push_back({id, absl::DeadlineExceededError(
                             absl::StrCat("not ready for epoch ", epoch_.value(), " in time"))});
    }
  }
  return Evict(out, now, commands);
}

std::vector<WorkerId> Membership::Unready() const {
  // Readiness means a connection to every peer, so one that hangs holds up all: those that have
  // given no sign but heartbeats since the last epoch ended are the ones to suspect first.
  std::vector<WorkerId> mute;
  std::vector<WorkerId> all;
  for (const std::optional<WorkerId>& worker : ranks_) {
    const Member& member = members_.at(*worker);
    if (member.ready) continue;
    all.push_back(*worker);
    if (!member.answered) mute.push_back(*worker);
  }
  return mute.empty() ? all : mute;
}

void Membership::Answered(WorkerId worker, absl::Time now) {
  Heard(worker, now);
  if (Member* member = FindMutable(worker)) member->answered = true;
}

void Membership::Heard(WorkerId worker, absl::Time now) {
  if (Member* member = FindMutable(worker)) {
    member->last_heard = now;
    member->silent = false;
  }
}

bool Membership::Ready(WorkerId worker, Epoch epoch) {
  Member* member = FindMutable(worker);
  if (member == nullptr || !member->rank.has_value() || !announced_ || epoch != epoch_ ||
      member->ready) {
    return false;
  }
  member->ready = true;
  member->served = true;
  return --unready_ == 0;
}

void Membership::Reassign(absl::Time now, std::vector<Command>& commands) {
  if (announced_) EndEpoch();
  Announce(now, commands);
}

void Membership::EndEpoch() {
  announced_ = false;
  epoch_ = epoch_.Next();
  for (auto& [id, member] : members_) {
    member.ready = false;
    member.answered = !member.assigned;
  }
}

void Membership::Announce(absl::Time now, std::vector<Command>& commands) {
  if (announced_ || LowestFreeRank().has_value()) return;
  // Also under a coordinator that is younger than its workers, epochs only grow.
  if (epoch_ <= last_epoch_) epoch_ = last_epoch_.Next();
  announced_ = true;
  unready_ = world_size_;
  std::vector<WorkerId> by_rank;
  by_rank.reserve(ranks_.size());
  bool all_loaded = true;
  for (const std::optional<WorkerId>& worker : ranks_) {
    by_rank.push_back(*worker);
    all_loaded &= members_.at(*worker).served;
  }
  // With weights in place only connections are made, which a step's time is enough for.
  ready_by_ = now + (all_loaded ? step_timeout_ : loading_timeout_);
  for (const WorkerId worker : by_rank) {
    Member& member = members_.at(worker);
    member.assigned = true;
    commands.push_back(AssignRank{worker, epoch_, *member.rank, placement_, by_rank});
  }
}

const Member* Membership::Find(WorkerId worker) const {
  auto it = members_.find(worker);
  return it == members_.end() ? nullptr : &it->second;
}

Member* Membership::FindMutable(WorkerId worker) {
  auto it = members_.find(worker);
  return it == members_.end() ? nullptr : &it->second;
}

const Member* Membership::At(RankId rank) const {
  const std::optional<WorkerId>& worker = ranks_[rank.value()];
  return worker.has_value() ? &members_.at(*worker) : nullptr;
}

const Member* Membership::LastKnownAt(RankId rank) const {
  const std::optional<Member>& member = last_known_[rank.value()];
  return member.has_value() ? &*member : nullptr;
}

std::string Membership::Describe(WorkerId worker) const {
  const Member* member = Find(worker);
  if (member == nullptr) return absl::StrCat("worker ", worker.value());
  return absl::StrCat("worker ", worker.value(), " (",
                      member->rank.has_value() ? absl::StrCat("rank ", member->rank->value())
                                               : std::string("standby"),
                      ", pid ", member->pid, " on ", member->host, ")");
}

}  // namespace shoal
