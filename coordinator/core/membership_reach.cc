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
// Two failures may be two accidents, if they come one upon the other.
constexpr int kMostFailedSteps = 3;
constexpr absl::Duration kLongFailure = absl::Seconds(5);
constexpr absl::Duration kTimeOfAccusation = absl::Minutes(1);
constexpr size_t kMostAccusations = 100'000;  // beyond: all is forgotten

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
  const InTheWay out = WhoIsInTheWay(accusations_.all(), AbsentRanks());
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

void Membership::StepFailed(const absl::Status& why, absl::Time now,
                            std::vector<Command>& commands) {
  ++vain_steps_;
  steps_time_out_ = absl::IsDeadlineExceeded(why);
  steps_fail_since_ = std::min(steps_fail_since_, now);
  failed_steps_.Begin(epoch_, now);
  InTheWay out;
  if (failed_steps_.count() == kMostFailedSteps || now - failed_steps_.since() > kLongFailure) {
    out = WhoFailsSteps(now);
    failed_steps_.Clear();
  }
  EndEpoch();
  KeepOut(out, steps_fail_since_, now, commands);
  Follow(now, commands);
}

void Membership::Waited(WorkerId worker, Epoch epoch, absl::Span<const RankId> ranks) {
  const Member* member = roster_.Find(worker);
  if (member == nullptr || !member->rank.has_value() || members_ == nullptr) return;
  if ((*members_)[member->rank->value()] != worker) return;  // it takes no part
  failed_steps_.Add(epoch, *member->rank, OtherMembers(*member->rank, ranks));
}

void Membership::Progressed(absl::Time now) {
  // Small steps may do where larger ones are lost.
  if (steps_time_out_ && now - announced_at_ <= step_timeout_) return;
  vain_steps_ = 0;
  steps_fail_since_ = absl::InfiniteFuture();
  failed_steps_.Clear();
}

Membership::InTheWay Membership::WhoFailsSteps(absl::Time now) {
  if (failed_steps_.before().empty()) return {};  // what was told before is about other failures
  std::erase_if(past_accusations_, [&](const PastAccusation& past) {
    return now - past.told > kTimeOfAccusation + 4 * step_timeout_ ||
           roster_.Find(past.by) == nullptr || roster_.Find(past.of) == nullptr;
  });
  if (past_accusations_.size() > kMostAccusations) past_accusations_.clear();
  for (const Accusation& accusation : failed_steps_.before()) {
    past_accusations_.push_back(
        {roster_.At(accusation.by)->id, roster_.At(accusation.of)->id, now});
  }
  std::vector<Accusation> all;
  std::set<RankId> named;
  for (const PastAccusation& past : past_accusations_) {
    const Member &by = *roster_.Find(past.by), &of = *roster_.Find(past.of);
    if (!by.loaded || !of.loaded || !by.rank.has_value() || !of.rank.has_value()) continue;
    all.push_back({*by.rank, *of.rank});
    named.insert({*by.rank, *of.rank});
  }
  std::vector<RankId> absent = AbsentRanks();
  std::erase_if(absent, [&](RankId rank) { return named.contains(rank); });
  InTheWay out = WhoIsInTheWay(all, absent);
  if (out.needed) return WhoIsInTheWay(failed_steps_.before(), AbsentRanks());
  for (const RankId rank : out.ranks) named.erase(rank);
  for (const RankId rank : named) roster_.At(rank)->leave.End();
  return out;
}

Membership::InTheWay Membership::WhoIsInTheWay(absl::Span<const Accusation> accusations,
                                               const std::vector<RankId>& absent) const {
  std::vector<int64_t> joined(roster_.world_size());
  for (int r = 0; r < roster_.world_size(); ++r) {
    if (const Member* member = roster_.At(RankId(r))) joined[r] = member->id.value();
  }
  InTheWay out;
  if (formed_) {
    out.ranks = LeaveOut(accusations, joined, [&](absl::Span<const RankId> ranks) {
      std::vector<RankId> all = absent;
      all.insert(all.end(), ranks.begin(), ranks.end());
      return static_cast<int>(all.size()) < roster_.world_size() &&
             placement_->CheckWithout(all).ok();
    });
  }
  out.needed = out.ranks.empty();
  if (out.needed) {
    out.ranks = LeaveOut(accusations, joined, [](absl::Span<const RankId>) { return true; });
  }
  return out;
}

void Membership::KeepOut(const InTheWay& out, absl::Time since, absl::Time now,
                         std::vector<Command>& commands) {
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
