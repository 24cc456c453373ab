// SPDX-License-Identifier: Apache-2.0
#include "coordinator/core/membership.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "engine/base/check.h"
#include "engine/base/connect_time.h"

namespace shoal {
namespace {

// After the time to connect, for word of it to come: before that nobody is to blame for not being
// ready.
constexpr absl::Duration kReportTime = absl::Seconds(1);
// So far apart are epochs that come to nothing announced: the first ones at once.
constexpr int kVainAtOnce = 3;
constexpr absl::Duration kFirstSpacing = absl::Milliseconds(100);
constexpr absl::Duration kLongestSpacing = absl::Seconds(1);

absl::Duration Spacing(int vain_epochs) {
  if (vain_epochs < kVainAtOnce) return absl::ZeroDuration();
  return std::min(kLongestSpacing, (1 << std::min(vain_epochs - kVainAtOnce, 10)) * kFirstSpacing);
}

PlacementRequest RequestFor(const CoreConfig& config) {
  PlacementRequest request;
  request.load = config.expert_load;
  request.holders = config.holders;
  request.redundant_experts = config.redundant_experts;
  request.n_group = config.n_group;
  return request;
}

void AppendName(std::string& names, const std::string& name) {
  absl::StrAppend(&names, names.empty() ? "" : ", ", name);
}

}  // namespace

Membership::Membership(const CoreConfig& config)
    : n_routed_experts_(config.n_routed_experts),
      placement_request_(RequestFor(config)),
      heartbeat_timeout_(config.heartbeat_timeout),
      connect_timeout_(std::max(config.step_timeout, ConnectTime(config.workers) + kReportTime)),
      loading_timeout_(config.loading_timeout),
      placement_(config.placement),
      roster_(config.workers),
      failed_steps_(config.step_timeout) {
  roster_.SetPlacement(placement_);
}

void Membership::Joined(const WorkerJoined& event, absl::Time now, std::vector<Command>& commands) {
  if (roster_.Find(event.worker) != nullptr) return;
  if (absl::Status added = roster_.Add(event, now); !added.ok()) {
    commands.push_back(EvictWorker{event.worker, std::move(added)});
    return;
  }
  Follow(now, commands);
}

std::optional<EpochEnd> Membership::Lost(WorkerId worker, const std::string& why, absl::Time now,
                                         std::vector<Command>& commands) {
  const Member* member = roster_.Find(worker);
  if (member == nullptr) return std::nullopt;
  const bool ends = CountsFor(*member);
  EpochEnd end{roster_.Describe(worker), why, member->last_heard,
               std::min(member->silent_since, now)};
  roster_.Remove(worker, now);
  if (ends) EndEpoch();
  Follow(now, commands);
  if (!ends) return std::nullopt;
  return end;
}

std::optional<EpochEnd> Membership::Evict(const std::vector<Eviction>& evictions, absl::Time now,
                                          std::vector<Command>& commands) {
  if (evictions.empty()) return std::nullopt;
  std::optional<EpochEnd> end;
  for (const Eviction& eviction : evictions) {
    const Member* member = roster_.Find(eviction.worker);
    if (member == nullptr) continue;  // named twice
    if (CountsFor(*member)) {
      if (!end.has_value()) {
        end = EpochEnd{"", std::string(eviction.why.message()), member->last_heard,
                       std::min(member->silent_since, now)};
      }
      AppendName(end->who, roster_.Describe(eviction.worker));
    }
    commands.push_back(EvictWorker{eviction.worker, eviction.why});
    roster_.Remove(eviction.worker, now);
  }
  if (end.has_value()) EndEpoch();
  Follow(now, commands);
  return end;
}

std::optional<EpochEnd> Membership::Tick(absl::Time now, std::vector<Command>& commands) {
  std::vector<Eviction> out;
  for (auto& [id, member] : roster_.members()) {
    if (now - member.last_heard <= heartbeat_timeout_) {
      member.silent_since = absl::InfiniteFuture();
    } else if (member.silent_since < now) {
      // Overdue at two Ticks in a row: if it was the coordinator that stood still, the heartbeats
      // that piled up meanwhile are read between them.
      out.push_back({id, absl::UnavailableError(absl::StrCat(
                             "no heartbeat for ", absl::FormatDuration(now - member.last_heard)))});
    } else {
      member.silent_since = now;
    }
  }
  BlameOverdue(now, out);
  if (EndLeaves(now, out) || spacing_) Follow(now, commands);
  return Evict(out, now, commands);
}

void Membership::BlameOverdue(absl::Time now, std::vector<Eviction>& out) {
  std::vector<Member*> unready;
  for (auto& [id, member] : roster_.members()) {
    if (now - member.asked <= (member.loaded ? connect_timeout_ : loading_timeout_)) continue;
    if (member.in_epoch) {
      unready.push_back(&member);
    } else if (!member.loaded) {
      out.push_back({id, absl::DeadlineExceededError("has not loaded its experts in time")});
    }
  }
  if (unready.empty()) return;
  // Readiness means a connection to every peer, so one that hangs holds up all. To suspect first
  // are those that have given no sign but heartbeats since they were asked, and those asked first.
  const auto order = [](const Member* member) {
    return std::make_pair(member->answered, member->asked);
  };
  const auto first = order(
      *std::min_element(unready.begin(), unready.end(),
                        [&](const Member* a, const Member* b) { return order(a) < order(b); }));
  for (Member* member : unready) {
    if (order(member) == first) {
      out.push_back({member->id, absl::DeadlineExceededError(absl::StrCat(
                                     "not ready for epoch ", epoch_.value(), " in time"))});
    } else {
      member->asked = now;  // perhaps held up: it gets its time again, once more
      member->answered = false;
    }
  }
}

void Membership::Answered(WorkerId worker, absl::Time now) {
  Heard(worker, now);
  if (Member* member = roster_.Find(worker)) member->answered = true;
}

void Membership::Heard(WorkerId worker, absl::Time now) {
  if (Member* member = roster_.Find(worker)) {
    member->last_heard = now;
    member->silent_since = absl::InfiniteFuture();
  }
}

bool Membership::Ready(WorkerId worker, Epoch epoch) {
  Member* member = roster_.Find(worker);
  if (member == nullptr || !member->in_epoch || epoch != epoch_ || member->ready) return false;
  member->ready = true;
  member->loaded = true;
  member->asked = absl::InfiniteFuture();
  if (--unready_ > 0) return false;
  formed_ = true;
  begun_ = true;
  vain_connects_ = 0;
  unconnected_since_ = absl::InfiniteFuture();
  ForgetFaults(KnownFault::In::kConnect);
  Recount();
  return true;
}

bool Membership::Loaded(WorkerId worker, absl::Time now, std::vector<Command>& commands) {
  Member* member = roster_.Find(worker);
  // Members of the first epoch answer with WorkerReady, standbys were asked nothing.
  if (member == nullptr || !formed_ || !member->told || member->loaded) return false;
  member->loaded = true;
  member->asked = absl::InfiniteFuture();
  Follow(now, commands);
  return true;
}

void Membership::Raise(absl::Time now, std::vector<Command>& commands) {
  EndEpoch();
  Follow(now, commands);
}

bool Membership::CountsFor(const Member& member) const {
  return announced_ ? member.in_epoch : formed_ && member.loaded && !member.leave.ongoing();
}

void Membership::EndEpoch() {
  if (!announced_) return;
  announced_ = false;
  epoch_ = epoch_.Next();
  unready_ = 0;
  accusations_.Clear();
  for (auto& [id, member] : roster_.members()) {
    member.in_epoch = false;
    member.ready = false;
  }
}

void Membership::Follow(absl::Time now, std::vector<Command>& commands) {
  if (formed_) {
    for (auto& [id, member] : roster_.members()) {
      if (!member.rank.has_value() || member.told) continue;
      member.told = true;
      member.asked = now;
      commands.push_back(LoadExperts{id, *member.rank, placement_});
    }
  }
  spacing_ = false;
  if (!announced_) Announce(now, commands);
  std::string entrants;
  for (const auto& [id, member] : roster_.members()) {
    if (announced_ && member.loaded && !member.in_epoch && !member.leave.ongoing()) {
      AppendName(entrants, roster_.Describe(id));
    }
  }
  if (entrants != entrants_) entrants_since_ = now;
  entrants_ = std::move(entrants);
  Recount();
}

std::vector<RankId> Membership::AbsentRanks() const {
  std::vector<RankId> absent;
  for (int r = 0; r < roster_.world_size(); ++r) {
    const Member* member = roster_.At(RankId(r));
    if (member == nullptr || member->leave.ongoing() || (formed_ && !member->loaded)) {
      absent.push_back(RankId(r));
    }
  }
  return absent;
}

void Membership::Wait(std::string why) {
  paused_ = std::move(why);
  unconnected_since_ = absl::InfiniteFuture();
  failed_steps_.End();
  for (auto& [id, member] : roster_.members()) {
    if (!formed_ || member.loaded) member.asked = absl::InfiniteFuture();
  }
}

void Membership::Announce(absl::Time now, std::vector<Command>& commands) {
  std::vector<RankId> absent = AbsentRanks();
  if (!formed_ || (placement_ != nullptr && !placement_->CheckWithout(absent).ok())) {
    // Perhaps those left out can be reached by now: nothing is lost by trying.
    for (auto& [id, member] : roster_.members()) member.leave.End();
    absent = AbsentRanks();
  }
  if (!formed_ && !absent.empty()) return Wait("");
  if (static_cast<int>(absent.size()) == roster_.world_size()) {
    return Wait("no worker holds its experts");
  }
  if (placement_ == nullptr) {
    PlanExperts();
    roster_.SetPlacement(placement_);
  }
  if (const absl::Status left = placement_->CheckWithout(absent); !left.ok()) {
    return Wait(std::string(left.message()));
  }
  paused_.clear();
  spacing_ = now - announced_at_ < Spacing(std::max(vain_connects_, vain_steps_));
  if (spacing_) return;
  auto members = std::make_shared<UnitMembers>(roster_.world_size());
  Epoch first;  // that all members can take part in
  for (int r = 0; r < roster_.world_size(); ++r) {
    if (std::find(absent.begin(), absent.end(), RankId(r)) != absent.end()) continue;
    const Member& member = *roster_.At(RankId(r));
    (*members)[r] = member.id;
    first = std::max(first, member.last_epoch.Next());
  }
  // Also under a coordinator that is younger than its workers, epochs only grow.
  epoch_ = std::max(epoch_, first);
  announced_ = true;
  announced_at_ = now;
  steps_are_fine_ = false;
  first_commit_ = absl::InfiniteFuture();
  members_ = members;
  std::vector<RankId> lost;
  for (size_t r = 0; r < failed_members_.size(); ++r) {
    if (failed_members_[r].has_value() && failed_members_[r] != (*members)[r]) {
      failed_members_[r].reset();
      lost.push_back(RankId(static_cast<int32_t>(r)));
    }
  }
  if (!lost.empty()) failed_steps_.Forget(lost);
  if (std::exchange(begun_, false)) connecting_since_ = now;
  for (const std::optional<WorkerId>& worker : *members) {
    if (!worker.has_value()) continue;
    Member& member = *roster_.Find(*worker);
    member.told = true;
    member.in_epoch = true;
    // One that has said nothing since an earlier epoch has had its time since then: others that
    // give up waiting for it must not save it.
    if (member.asked == absl::InfiniteFuture() || member.answered) {
      member.asked = now;
      member.answered = false;
    }
    ++unready_;
    commands.push_back(AssignRank{*worker, epoch_, *member.rank, placement_, members});
  }
}

std::vector<int> Membership::Hosts() const {
  std::map<absl::string_view, int> numbers;
  std::vector<int> hosts(roster_.world_size(), -1);
  for (int r = 0; r < roster_.world_size(); ++r) {
    const Member* member = roster_.At(RankId(r));
    if (member == nullptr) continue;
    hosts[r] = numbers.try_emplace(member->host, numbers.size()).first->second;
  }
  return hosts;
}

void Membership::PlanExperts() {
  placement_request_.host_of_rank = Hosts();
  auto planned = PlanUnit(n_routed_experts_, placement_request_);
  SHOAL_CHECK(planned.ok());  // by Validate
  placement_ = std::make_shared<const ExpertPlacement>(*std::move(planned));
}

void Membership::Recount() {
  if (placement_ == nullptr) return;
  std::vector<int> live_host = Hosts();
  for (const auto& [id, member] : roster_.members()) {
    const bool live = announced_ && formed_ ? member.in_epoch : member.loaded;
    if (member.rank.has_value() && !live) live_host[member.rank->value()] = -1;
  }
  redundancy_ = CountRedundancy(*placement_, live_host);
}

const Member* Membership::MemberAt(RankId rank) const {
  const Member* member = roster_.At(rank);
  return member != nullptr && member->in_epoch ? member : nullptr;
}

}  // namespace shoal
