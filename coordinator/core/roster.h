// SPDX-License-Identifier: Apache-2.0
// The workers that are here: which rank each holds, who stands by, who was heard when. Ranks and
// their number never change; who holds them does. Nothing here knows of epochs' rules or requests.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "coordinator/core/events.h"
#include "coordinator/core/leave.h"
#include "engine/config/expert_placement.h"

namespace shoal {

struct Member {
  WorkerId id;
  std::string host;
  int64_t pid = 0;
  uint64_t boot_nonce = 0;
  int64_t cache_blocks = 0;
  Epoch last_epoch;            // before it came; an epoch that it is in must be later
  std::optional<RankId> rank;  // none: standby
  bool wants_rank = false;     // holds the rank it hoped for
  bool rank_fixed = false;     // and can have no other one
  bool told = false;           // of its rank: it keeps it for as long as it lives

  bool loaded = false;    // its rank's experts
  bool in_epoch = false;  // a member of the epoch announced last, which is not over
  bool ready = false;     // for that epoch
  // When it was asked for what it has not answered yet: to load, or to become ready for an epoch.
  absl::Time asked = absl::InfiniteFuture();

  Leave leave;  // others could not connect to it, or it to them

  absl::Time last_heard;
  absl::Time silent_since = absl::InfiniteFuture();  // the first Tick that found it overdue
  bool answered = true;  // said more than heartbeats since it was asked
};

class Roster {
 public:
  explicit Roster(int world_size);

  // What each rank will hold: which free rank is needed most depends on it.
  void SetPlacement(std::shared_ptr<const ExpertPlacement> placement) {
    placement_ = std::move(placement);
  }

  // Takes a worker in, with a rank if one is free: the one it wants, else the one that is needed
  // most. A wish moves aside a worker that was not told its rank yet. Errors say why it is refused:
  // InvalidArgument, AlreadyExists (a fixed rank is taken), ResourceExhausted. Requires that it is
  // not here.
  absl::Status Add(const WorkerJoined& event, absl::Time now);
  // One that was not left out lately.
  bool HasStandby(absl::Time now) const;
  // Takes it out; a standby gets its rank, in the order of joining, those that were left out lately
  // last. False: it was not here.
  bool Remove(WorkerId worker, absl::Time now);

  // Null for strangers; null for a rank that nobody holds.
  Member* Find(WorkerId worker);
  const Member* Find(WorkerId worker) const;
  Member* At(RankId rank);
  const Member* At(RankId rank) const;
  // The last worker a rank had, as it joined, for people; null if it never had one.
  const Member* LastKnownAt(RankId rank) const;

  int world_size() const { return static_cast<int>(ranks_.size()); }
  // In the order of joining; ranks or none.
  std::map<WorkerId, Member>& members() { return members_; }
  const std::map<WorkerId, Member>& members() const { return members_; }
  // "worker 3 (rank 1, pid 42 on host a)".
  std::string Describe(WorkerId worker) const;

 private:
  // False: the rank it must have is taken.
  bool GiveRank(Member& member, std::optional<RankId> wanted);
  // Of the free ranks, for a worker on `host`: the one with the most experts that no taken rank
  // holds, then with the most that a single one holds, then with the most of these whose holder is
  // on another host, then the lowest.
  std::optional<RankId> MostNeededRank(absl::string_view host) const;

  std::map<WorkerId, Member> members_;  // standbys too
  std::vector<std::optional<WorkerId>> ranks_;
  std::vector<std::optional<Member>> last_known_;  // by rank
  std::shared_ptr<const ExpertPlacement> placement_;
  Absences absences_;
};

}  // namespace shoal
