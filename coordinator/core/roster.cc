// SPDX-License-Identifier: Apache-2.0
#include "coordinator/core/roster.h"

#include <algorithm>
#include <array>
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

Roster::Roster(int world_size) : ranks_(world_size), last_known_(world_size) {}

absl::Status Roster::Add(const WorkerJoined& event, absl::Time now) {
  if (event.cache_blocks < 1) {
    return absl::InvalidArgumentError(absl::StrCat("the worker offers ", event.cache_blocks,
                                                   " cache blocks, at least 1 is needed"));
  }
  if (event.wanted_rank.has_value() &&
      (event.wanted_rank->value() < 0 || event.wanted_rank->value() >= world_size())) {
    return absl::InvalidArgumentError(
        absl::StrCat("the worker wants rank ", event.wanted_rank->value(), " of ", world_size()));
  }
  if (members_.size() >= 2 * ranks_.size() + kExtraStandbys) {
    return absl::ResourceExhaustedError(
        absl::StrCat(members_.size(), " workers are here for ", world_size(), " ranks"));
  }
  Member& member = members_[event.worker];
  member.id = event.worker;
  member.host = event.host;
  member.pid = event.pid;
  member.boot_nonce = event.boot_nonce;
  member.cache_blocks = std::min(event.cache_blocks, kMaxBlocks);
  member.last_epoch = event.last_epoch;
  member.last_heard = now;
  member.leave = absences_.End(event.boot_nonce, now);
  member.rank_fixed = event.rank_fixed && event.wanted_rank.has_value();
  if (!GiveRank(member, event.wanted_rank)) {
    const std::string holder = Describe(*ranks_[event.wanted_rank->value()]);
    members_.erase(event.worker);
    return absl::AlreadyExistsError(
        absl::StrCat("rank ", event.wanted_rank->value(), " is held by ", holder));
  }
  return absl::OkStatus();
}

bool Roster::GiveRank(Member& member, std::optional<RankId> wanted) {
  std::optional<RankId> rank = wanted.has_value() ? wanted : MostNeededRank(member.host);
  if (!rank.has_value()) return true;  // a standby
  Member* displaced = nullptr;
  if (Member* holder = At(*rank)) {
    const bool stays =
        holder->told || holder->rank_fixed || (holder->wants_rank && !member.rank_fixed);
    if (stays && member.rank_fixed) return false;
    if (stays) {
      // Its wish came too late; any other will do, or waiting for one.
      rank = MostNeededRank(member.host);
      if (!rank.has_value()) return true;
    } else {
      displaced = holder;
      displaced->rank.reset();
      displaced->wants_rank = false;
    }
  }
  member.rank = rank;
  member.wants_rank = wanted == rank;
  ranks_[rank->value()] = member.id;
  last_known_[rank->value()] = member;
  return displaced == nullptr || GiveRank(*displaced, std::nullopt);
}

std::optional<RankId> Roster::MostNeededRank(absl::string_view host) const {
  const auto is_free = [&](RankId rank) { return !ranks_[rank.value()].has_value(); };
  std::vector<bool> beside(ranks_.size(), false);  // taken by a worker on `host`
  for (const auto& [id, member] : members_) {
    if (member.rank.has_value()) beside[member.rank->value()] = member.host == host;
  }
  // Experts without a holder, with one, with one on another host.
  std::vector<std::array<int, 3>> need(ranks_.size());
  const int layers = placement_ == nullptr ? 0 : placement_->layers();
  for (int layer = 0; layer < layers; ++layer) {
    for (int expert = 0; expert < placement_->n_routed_experts(layer); ++expert) {
      const absl::Span<const RankId> holders = placement_->Holders(layer, ExpertId(expert));
      const auto free = std::count_if(holders.begin(), holders.end(), is_free);
      const auto taken = static_cast<int64_t>(holders.size()) - free;
      if (free == 0 || taken > 1) continue;
      const bool elsewhere =
          taken == 1 && std::none_of(holders.begin(), holders.end(),
                                     [&](RankId rank) { return beside[rank.value()]; });
      for (const RankId rank : holders) {
        need[rank.value()][0] += taken == 0 ? 1 : 0;
        need[rank.value()][1] += taken == 1 ? 1 : 0;
        need[rank.value()][2] += elsewhere ? 1 : 0;
      }
    }
  }
  std::optional<RankId> best;
  for (int r = 0; r < world_size(); ++r) {
    if (!is_free(RankId(r))) continue;
    if (!best.has_value() || need[r] > need[best->value()]) best = RankId(r);
  }
  return best;
}

bool Roster::HasStandby(absl::Time now) const {
  return std::any_of(members_.begin(), members_.end(), [&](const auto& member) {
    return !member.second.rank.has_value() && !member.second.leave.IsRecent(now);
  });
}

bool Roster::Remove(WorkerId worker, absl::Time now) {
  const auto it = members_.find(worker);
  if (it == members_.end()) return false;
  const Member& gone = it->second;
  absences_.Begin(gone.boot_nonce, gone.leave, gone.loaded, now);
  const std::optional<RankId> rank = gone.rank;
  members_.erase(it);
  if (!rank.has_value()) return true;
  ranks_[rank->value()].reset();
  Member* successor = nullptr;
  for (auto& [id, standby] : members_) {
    // One that insisted on a rank has it: no standby does.
    if (standby.rank.has_value()) continue;
    if (successor == nullptr || !standby.leave.IsRecent(now)) successor = &standby;
    if (!successor->leave.IsRecent(now)) break;
  }
  if (successor != nullptr) GiveRank(*successor, std::nullopt);
  return true;
}

Member* Roster::Find(WorkerId worker) {
  const auto it = members_.find(worker);
  return it == members_.end() ? nullptr : &it->second;
}

const Member* Roster::Find(WorkerId worker) const {
  const auto it = members_.find(worker);
  return it == members_.end() ? nullptr : &it->second;
}

Member* Roster::At(RankId rank) {
  const std::optional<WorkerId>& worker = ranks_[rank.value()];
  return worker.has_value() ? &members_.at(*worker) : nullptr;
}

const Member* Roster::At(RankId rank) const {
  const std::optional<WorkerId>& worker = ranks_[rank.value()];
  return worker.has_value() ? &members_.at(*worker) : nullptr;
}

const Member* Roster::LastKnownAt(RankId rank) const {
  const std::optional<Member>& member = last_known_[rank.value()];
  return member.has_value() ? &*member : nullptr;
}

std::string Roster::Describe(WorkerId worker) const {
  const Member* member = Find(worker);
  if (member == nullptr) return absl::StrCat("worker ", worker.value());
  return absl::StrCat("worker ", worker.value(), " (",
                      member->rank.has_value() ? absl::StrCat("rank ", member->rank->value())
                                               : std::string("standby"),
                      ", pid ", member->pid, " on ", member->host, ")");
}

}  // namespace shoal
