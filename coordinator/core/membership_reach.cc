// SPDX-License-Identifier: Apache-2.0
// All live, and cannot all reach each other: who is left out of the epochs, and who comes again.
#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "coordinator/core/membership.h"

namespace shoal {
namespace {

// A network may be away for a while; whom a standby replaces must load again if it was nothing but
// that.
constexpr absl::Duration kPatienceWithTheNeeded = absl::Seconds(15);

}  // namespace

void Membership::Unconnected(const ConnectFailed& event, absl::Time now) {
  Member* member = roster_.Find(event.worker);
  // It is asked once in an epoch: whoever has answered is not asked any more.
  if (member == nullptr || !member->in_epoch || event.epoch != epoch_ ||
      member->asked == absl::InfiniteFuture()) {
    return;
  }
  member->asked = absl::InfiniteFuture();
  accusations_.Add(*member->rank, OtherMembers(*member->rank, event.unreached), event.why, now);
}

std::vector<RankId> Membership::OtherMembers(RankId by, absl::Span<const RankId> named) const {
  std::vector<RankId> members;
  if (members_ == nullptr) return members;
  for (const RankId rank : std::set<RankId>(named.begin(), named.end())) {
    const bool known = rank.value() >= 0 && rank.value() < roster_.world_size();
    if (known && rank != by && (*members_)[rank.value()].has_value()) members.push_back(rank);
  }
  return members;
}

std::optional<EpochEnd> Membership::Settle(absl::Time now, std::vector<Command>& commands) {
  if (!accusations_.Complete(unready_, now)) return std::nullopt;
  ForgetFaults(KnownFault::In::kConnect);  // what is not said again
  const InTheWay out = WhoIsInTheWay(KnownFault::In::kConnect, accusations_.all());
  EpochEnd end{"", accusations_.why(), accusations_.since(), accusations_.since()};
  for (const RankId rank : out.ranks) {
    absl::StrAppend(&end.who, end.who.empty() ? "" : ", ", roster_.Describe(roster_.At(rank)->id));
  }
  unconnected_since_ = std::min(unconnected_since_, accusations_.since());
  ++vain_connects_;
  EndEpoch();
  KeepOut(out, unconnected_since_, now, commands);
  Follow(now, commands);
  return end;
}

void Membership::StepFailed(const StepDone& event, const absl::Status& why, absl::Time now,
                            std::vector<Command>& commands) {
  ++vain_steps_;
  failed_steps_.Begin(epoch_, why, now);
  failed_members_ = *members_;
  Waited(event.worker, event.epoch, event.blamed);
  InTheWay out;
  std::vector<Accusation> blamed = failed_steps_.ToBlame(now);
  if (blamed.empty()) blamed = Relapses(event);
  if (!blamed.empty()) {
    out = WhoIsInTheWay(KnownFault::In::kStep, blamed);
    failed_steps_.Restart();
  }
  EndEpoch();
  KeepOut(out, failed_steps_.since(), now, commands);
  Follow(now, commands);
}

void Membership::Waited(WorkerId worker, Epoch epoch, absl::Span<const RankId> ranks) {
  const Member* member = roster_.Find(worker);
  if (member == nullptr || !member->rank.has_value() || members_ == nullptr) return;
  if ((*members_)[member->rank->value()] != worker) return;  // it takes no part
  failed_steps_.Add(epoch, *member->rank, OtherMembers(*member->rank, ranks));
}

std::vector<Accusation> Membership::Relapses(const StepDone& event) const {
  std::vector<Accusation> relapses;
  const Member& by = *roster_.Find(event.worker);
  for (const RankId rank : OtherMembers(*by.rank, event.blamed)) {
    if (known_faults_.Between(by.id, roster_.At(rank)->id, KnownFault::In::kStep)) {
      relapses.push_back({*by.rank, rank});
    }
  }
  return relapses;
}

void Membership::Progressed(absl::Time now) {
  vain_steps_ = 0;
  first_commit_ = std::min(first_commit_, now);
  if (steps_are_fine_ || !failed_steps_.Committed(now - first_commit_)) return;
  steps_are_fine_ = true;
  ForgetFaults(KnownFault::In::kStep);
}

void Membership::ForgetFaults(KnownFault::In in) {
  known_faults_.Forget([&](const KnownFault& fault) {
    const Member *by = roster_.Find(fault.by), *of = roster_.Find(fault.of);
    if (by == nullptr || of == nullptr) return true;
    return fault.in == in && by->in_epoch && of->in_epoch && by->asked == absl::InfiniteFuture();
  });
}

Membership::InTheWay Membership::WhoIsInTheWay(KnownFault::In in,
                                               absl::Span<const Accusation> accusations) {
  std::vector<KnownFault> present;
  for (const Accusation& accusation : accusations) {
    present.push_back({in, roster_.At(accusation.by)->id, roster_.At(accusation.of)->id});
  }
  known_faults_.Add(present);
  std::vector<Accusation> all;
  std::set<RankId> named;
  for (const KnownFault& fault : known_faults_.all()) {
    const Member *by = roster_.Find(fault.by), *of = roster_.Find(fault.of);
    if (by == nullptr || of == nullptr || !by->rank.has_value() || !of->rank.has_value()) continue;
    if (formed_ && !(by->loaded && of->loaded)) continue;
    // They have come to connecting, and that is not what kept them from it.
    if (fault.in != in && fault.in == KnownFault::In::kStep && by->in_epoch && of->in_epoch) {
      continue;
    }
    all.push_back({*by->rank, *of->rank});
    named.insert({*by->rank, *of->rank});
  }
  // Of whom faults are known may come again, if all get on with it without somebody else.
  std::vector<RankId> absent = AbsentRanks();
  std::erase_if(absent, [&](RankId rank) { return named.contains(rank); });
  std::vector<int64_t> joined(roster_.world_size());
  for (int r = 0; r < roster_.world_size(); ++r) {
    if (const Member* member = roster_.At(RankId(r))) joined[r] = member->id.value();
  }
  InTheWay out;
  if (formed_) {
    out.ranks = LeaveOut(all, joined, [&](absl::Span<const RankId> ranks) {
      std::vector<RankId> without = absent;
      without.insert(without.end(), ranks.begin(), ranks.end());
      return static_cast<int>(without.size()) < roster_.world_size() &&
             placement_->CheckWithout(without).ok();
    });
  }
  out.needed = out.ranks.empty();
  if (out.needed) {
    out.ranks = LeaveOut(all, joined, [](absl::Span<const RankId>) { return true; });
    known_faults_.Forget([](const KnownFault&) { return true; });
    known_faults_.Add(present);
  } else {
    for (const RankId rank : out.ranks) named.erase(rank);
    out.others.assign(named.begin(), named.end());
  }
  return out;
}

void Membership::KeepOut(const InTheWay& out, absl::Time since, absl::Time now,
                         std::vector<Command>& commands) {
  for (const RankId rank : out.others) roster_.At(rank)->leave.End();
  if (out.needed) {  // perhaps not, with those who were left out
    for (auto& [id, member] : roster_.members()) member.leave.End();
  }
  for (const RankId rank : out.ranks) {
    Member& member = *roster_.At(rank);
    if (out.needed) {
      if (now - since < kPatienceWithTheNeeded) break;
      if (Replace(member, now, commands)) break;
    } else if (member.leave.ongoing()) {
      continue;
    } else if (!member.leave.IsRecent(now) || !Replace(member, now, commands)) {
      member.asked = absl::InfiniteFuture();
      member.leave.Begin(roster_.world_size(), now);
    }
  }
}

bool Membership::Replace(Member& member, absl::Time now, std::vector<Command>& commands) {
  if (member.rank_fixed || !roster_.HasStandby(now)) return false;
  commands.push_back(EvictWorker{
      member.id, absl::UnavailableError("others cannot reach it, or it them: another worker, which "
                                        "stands by, takes its rank")});
  member.leave.Begin(roster_.world_size(), now);  // when it comes again, it stands by and waits
  roster_.Remove(member.id, now);
  return true;
}

bool Membership::EndLeaves(absl::Time now, std::vector<Eviction>& out) {
  bool ended = false;
  for (auto& [id, member] : roster_.members()) {
    if (!member.leave.Over(now)) continue;
    if (member.answered) {
      member.leave.End();
      ended = true;
    } else {
      out.push_back({id, absl::DeadlineExceededError(
                             "beats, but has said nothing since it was asked to connect")});
    }
  }
  return ended;
}

}  // namespace shoal
