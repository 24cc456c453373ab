// SPDX-License-Identifier: Apache-2.0
// Who belongs to the unit: workers, the ranks they hold, and the epochs in which they do.
//
// An epoch is announced with AssignRank to all members once every rank has a worker, and serving
// may begin when all of them are ready for it. Losing a member of an announced epoch ends it: the
// number grows, survivors keep their ranks, and as soon as the empty ranks are filled (by a standby
// or a joiner) the new epoch is announced. Nothing here knows of requests.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "coordinator/core/core.h"
#include "coordinator/core/events.h"

namespace shoal {

struct Member {
  WorkerId id;
  std::string host;
  int64_t pid = 0;
  int64_t cache_blocks = 0;
  bool wants_rank = false;     // holds the rank it asked for
  std::optional<RankId> rank;  // none: standby
  bool assigned = false;       // was told its rank: it keeps it for as long as it lives
  bool ready = false;          // for the present epoch
  bool served = false;         // was ready once: its weights are loaded
  bool answered = true;        // said more than heartbeats since the epoch before ended
  absl::Time last_heard;
  bool silent = false;  // was overdue at the Tick before
};

class Membership {
 public:
  // `placement` is what every epoch is announced with.
  Membership(const CoreConfig& config, std::shared_ptr<const ExpertPlacement> placement);

  // Each returns, if members of an announced epoch were lost by it, what happened, for people: the
  // epoch is over. Unknown workers are ignored by all but Joined.
  void Joined(const WorkerJoined& event, absl::Time now, std::vector<Command>& commands);
  std::optional<absl::Status> Lost(WorkerId worker, const std::string& why, absl::Time now,
                                   std::vector<Command>& commands);
  // Like Lost, but the decision is ours: the link is told to close the connections. All at once, so
  // that the next epoch is announced without any of them.
  struct Eviction {
    WorkerId worker;
    absl::Status why;
  };
  std::optional<absl::Status> Evict(const std::vector<Eviction>& evictions, absl::Time now,
                                    std::vector<Command>& commands);
  // Evicts the silent, and those that do not become ready.
  std::optional<absl::Status> Tick(absl::Time now, std::vector<Command>& commands);

  // Any sign of life but a heartbeat; a heartbeat.
  void Answered(WorkerId worker, absl::Time now);
  void Heard(WorkerId worker, absl::Time now);
  // True when with it all members are ready: serving may begin. Other epochs than the present one
  // are ignored.
  bool Ready(WorkerId worker, Epoch epoch);
  // Ends the epoch without a loss: everybody is assigned anew.
  void Reassign(absl::Time now, std::vector<Command>& commands);

  Epoch epoch() const { return epoch_; }
  // Null for strangers.
  const Member* Find(WorkerId worker) const;
  const Member* At(RankId rank) const;
  // The last member a rank had, for people; null if it never had one.
  const Member* LastKnownAt(RankId rank) const;
  // "worker 3 (rank 1, pid 42 on host a)".
  std::string Describe(WorkerId worker) const;

 private:
  Member* FindMutable(WorkerId worker);
  // Takes the worker out; a standby takes its rank. What happened, if it was a member of the
  // announced epoch.
  std::optional<absl::Status> Remove(WorkerId worker, absl::string_view why);
  // Finds a rank for the worker, moving aside one that was not told its rank yet. False: the rank
  // it asked for is held by one that asked for it too.
  bool GiveRank(Member& member, std::optional<RankId> wanted);
  std::optional<RankId> LowestFreeRank() const;
  void EndEpoch();
  // Announces the epoch if every rank has a worker.
  void Announce(absl::Time now, std::vector<Command>& commands);
  std::vector<WorkerId> Unready() const;

  const int world_size_;
  const absl::Duration heartbeat_timeout_;
  const absl::Duration step_timeout_;
  const absl::Duration loading_timeout_;
  const std::shared_ptr<const ExpertPlacement> placement_;
  std::map<WorkerId, Member> members_;  // standbys too
  std::vector<std::optional<WorkerId>> ranks_;
  std::vector<std::optional<Member>> last_known_;  // by rank
  Epoch epoch_;
  Epoch last_epoch_;        // the latest that any worker brought along
  bool announced_ = false;  // `epoch_` was, and is not over
  int unready_ = 0;         // members of the announced epoch not ready
  absl::Time ready_by_ = absl::InfiniteFuture();
};

}  // namespace shoal
