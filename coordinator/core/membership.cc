// SPDX-License-Identifier: Apache-2.0
#include "coordinator/core/membership.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "coordinator/core/expert_planner.h"
#include "engine/base/check.h"

namespace shoal {
namespace {

// After the first accusation, for the others to come: both ends of a link that is cut wait equally long.
constexpr absl::Duration kAccusationGrace = absl::Milliseconds(300);
// A worker gives up connecting after three seconds and this per rank, and then says whom it does
// not reach: before that nobody is to blame for not being ready.
constexpr absl::Duration kConnectTime = absl::Seconds(4);
constexpr absl::Duration kConnectTimePerRank = absl::Milliseconds(10);
// Longer than connecting takes: who is left out has said by then that it cannot, or hangs.
constexpr absl::Duration kShortestLeave = absl::Seconds(5);
constexpr absl::Duration kLongestLeave = absl::Minutes(5);

void AppendName(std::string& names, const std::string& name) {
  absl::StrAppend(&names, names.empty() ? "" : ", ", name);
}

}  // namespace

Membership::Membership(const CoreConfig& config)
    : holders_(config.holders),
      redundant_experts_(config.redundant_experts),
      n_routed_experts_(config.n_routed_experts),
      n_group_(config.n_group),
      expert_load_(config.expert_load),
      heartbeat_timeout_(config.heartbeat_timeout),
      connect_timeout_(
          std::max(config.step_timeout, kConnectTime + config.workers * kConnectTimePerRank)),
      loading_timeout_(config.loading_timeout),
      placement_(config.placement),
      roster_(config.workers) {
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
  roster_.Remove(worker);
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
    roster_.Remove(eviction.worker);
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
  if (EndLeaves(now, out)) Follow(now, commands);
  return Evict(out, now, commands);
}

bool Membership::EndLeaves(absl::Time now, std::vector<Eviction>& out) {
  bool ended = false;
  for (auto& [id, member] : roster_.members()) {
    if (!member.left_out || now < member.retry_at) continue;
    if (member.answered) {
      member.left_out = false;
      ended = true;
    } else {
      out.push_back({id, absl::DeadlineExceededError(
                             "beats, but has said nothing since it was asked to connect")});
    }
  }
  return ended;
}

void Membership::BlameOverdue(absl::Time now, std::vector<Eviction>& out) {
  std::vector<Member*> unready;
  for (auto& [id, member] : roster_.members()) {
    if (now - member.asked <= (member.loaded ? connect_timeout_ : loading_timeout_)) continue;
    if (member.in_epoch) {
      unready.push_back(&member);
    } else {
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

void Membership::Unconnected(const ConnectFailed& event, absl::Time now) {
  Member* member = roster_.Find(event.worker);
  // It is asked once in an epoch: whoever has answered is not asked any more.
  if (member == nullptr || !member->in_epoch || event.epoch != epoch_ ||
      member->asked == absl::InfiniteFuture()) {
    return;
  }
  member->asked = absl::InfiniteFuture();
  if (accusers_++ == 0) {
    accused_at_ = now;
    accused_why_ = std::string(event.why.message());
  }
  const RankId by = *member->rank;
  const size_t before = accusations_.size();
  const std::set<RankId> unreached(event.unreached.begin(), event.unreached.end());
  for (const RankId of : unreached) {
    if (of.value() < 0 || of.value() >= roster_.world_size() || of == by) continue;
    if (MemberAt(of) != nullptr) accusations_.push_back({by, of});
  }
  if (accusations_.size() == before) accusations_.push_back({by, by});
}

std::optional<EpochEnd> Membership::Settle(absl::Time now, std::vector<Command>& commands) {
  const bool all_answered = accusers_ == unready_;
  if (accusers_ == 0 || (!all_answered && now - accused_at_ < kAccusationGrace)) {
    return std::nullopt;
  }
  std::vector<int64_t> joined(roster_.world_size());
  for (int r = 0; r < roster_.world_size(); ++r) {
    if (const Member* member = roster_.At(RankId(r))) joined[r] = member->id.value();
  }
  std::vector<RankId> out;
  if (formed_) {
    const std::vector<RankId> absent = AbsentRanks();
    out = LeaveOut(accusations_, joined, [&](absl::Span<const RankId> ranks) {
      std::vector<RankId> all = absent;
      all.insert(all.end(), ranks.begin(), ranks.end());
      return static_cast<int>(all.size()) < roster_.world_size() &&
             placement_->CheckWithout(all).ok();
    });
  }
  const bool needed = out.empty();
  if (needed) out = LeaveOut(accusations_, joined, [](absl::Span<const RankId>) { return true; });
  EpochEnd end{"", accused_why_, accused_at_, accused_at_};
  EndEpoch();
  for (const RankId rank : out) {
    AppendName(end.who, roster_.Describe(roster_.At(rank)->id));
    KeepOut(*roster_.At(rank), needed, now, commands);
  }
  Follow(now, commands);
  return end;
}

void Membership::KeepOut(Member& member, bool needed, absl::Time now,
                         std::vector<Command>& commands) {
  member.asked = absl::InfiniteFuture();
  const bool again = member.retry_after > absl::ZeroDuration() &&
                     now - member.retry_at < 2 * kLongestLeave;
  if ((again || needed) && !member.rank_fixed && roster_.has_standby()) {
    commands.push_back(EvictWorker{
        member.id, absl::UnavailableError("others cannot reach it, or it them: another worker, which "
                                          "stands by, takes its rank")});
    roster_.Remove(member.id);
    return;
  }
  member.left_out = !needed;  // else it tries again with all others
  // One that was needed before its leave was over has not had its try: the leave goes on.
  if (needed || now < member.retry_at) return;
  const absl::Duration shortest = kShortestLeave + roster_.world_size() * kConnectTimePerRank;
  member.retry_after = again ? std::min(3 * member.retry_after, kLongestLeave) : shortest;
  member.retry_at = now + member.retry_after;
}

void Membership::Raise(absl::Time now, std::vector<Command>& commands) {
  EndEpoch();
  Follow(now, commands);
}

bool Membership::CountsFor(const Member& member) const {
  return announced_ ? member.in_epoch : formed_ && member.loaded && !member.left_out;
}

void Membership::EndEpoch() {
  if (!announced_) return;
  announced_ = false;
  epoch_ = epoch_.Next();
  unready_ = 0;
  accusations_.clear();
  accusers_ = 0;
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
  if (!announced_) Announce(now, commands);
  std::string entrants;
  for (const auto& [id, member] : roster_.members()) {
    if (announced_ && member.loaded && !member.in_epoch && !member.left_out) {
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
    if (member == nullptr || member->left_out || (formed_ && !member->loaded)) {
      absent.push_back(RankId(r));
    }
  }
  return absent;
}

void Membership::Announce(absl::Time now, std::vector<Command>& commands) {
  std::vector<RankId> absent = AbsentRanks();
  if (!formed_ && !absent.empty()) return;
  if (placement_ != nullptr && !placement_->CheckWithout(absent).ok()) {
    // Perhaps those left out can be reached by now: nothing is lost by trying.
    for (auto& [id, member] : roster_.members()) member.left_out = false;
    absent = AbsentRanks();
  }
  if (static_cast<int>(absent.size()) == roster_.world_size()) {
    paused_ = "no worker holds its experts";
    return;
  }
  if (placement_ == nullptr) {
    PlanExperts();
    roster_.SetPlacement(placement_);
  }
  if (const absl::Status left = placement_->CheckWithout(absent); !left.ok()) {
    paused_ = std::string(left.message());
    return;
  }
  paused_.clear();
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
  if (std::exchange(begun_, false)) connecting_since_ = now;
  for (const std::optional<WorkerId>& worker : *members) {
    if (!worker.has_value()) continue;
    Member& member = *roster_.Find(*worker);
    member.told = true;
    member.in_epoch = true;
    // One that left an earlier epoch unanswered has had its time since then: others that give up
    // waiting for it must not save it.
    if (member.asked == absl::InfiniteFuture()) {
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
  if (holders_ == 1 && redundant_experts_ == 0 && expert_load_.empty()) {
    auto contiguous = ExpertPlacement::Contiguous(roster_.world_size(), n_routed_experts_);
    SHOAL_CHECK(contiguous.ok());  // by Validate
    placement_ = std::make_shared<const ExpertPlacement>(*std::move(contiguous));
    return;
  }
  PlacementRequest request;
  request.holders = holders_;
  request.redundant_experts = redundant_experts_;
  request.n_group = n_group_;
  request.load = expert_load_.empty() ? EqualLoad(n_routed_experts_) : expert_load_;
  request.host_of_rank = Hosts();
  auto planned = PlanPlacement(request);
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
