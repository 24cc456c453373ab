// SPDX-License-Identifier: Apache-2.0
// Who belongs to the unit, epoch by epoch. An epoch is announced with AssignRank to its members,
// and serving may begin when all of them are ready for it.
//
// At first every rank must have a worker: all load, in one epoch. From then on the unit is formed
// and goes on with whom it has. When a member is lost, or a step failed, the number grows and the
// next epoch is announced at once to all that hold their experts, unless an expert would have no
// holder: then the unit pauses until a worker has loaded. Whoever comes is given a rank and loads
// in the background; it enters with the next epoch, which the core raises between two steps.
// Nothing here knows of requests.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "coordinator/core/accusations.h"
#include "coordinator/core/core.h"
#include "coordinator/core/events.h"
#include "coordinator/core/expert_planner.h"
#include "coordinator/core/failed_steps.h"
#include "coordinator/core/known_faults.h"
#include "coordinator/core/redundancy.h"
#include "coordinator/core/roster.h"

namespace shoal {

// Why an epoch ended, and since when it was to be expected.
struct EpochEnd {
  std::string who;  // was lost or reported, for people; several are joined by ", "
  std::string why;
  absl::Time heard;      // when the one found out first was heard last
  absl::Time suspected;  // when it was found silent, or else now
};

class Membership {
 public:
  explicit Membership(const CoreConfig& config);

  // Each returns how the epoch ended, if it did: a member was lost; or, while the unit is paused,
  // one that has loaded. Unknown workers are ignored by all but Joined.
  void Joined(const WorkerJoined& event, absl::Time now, std::vector<Command>& commands);
  std::optional<EpochEnd> Lost(WorkerId worker, const std::string& why, absl::Time now,
                               std::vector<Command>& commands);
  // Like Lost, but the decision is ours: the link is told to close the connections. All at once, so
  // that the next epoch is announced without any of them.
  struct Eviction {
    WorkerId worker;
    absl::Status why;
  };
  std::optional<EpochEnd> Evict(const std::vector<Eviction>& evictions, absl::Time now,
                                std::vector<Command>& commands);
  // Evicts the silent, and those that do not load or become ready in time.
  std::optional<EpochEnd> Tick(absl::Time now, std::vector<Command>& commands);

  // Any sign of life but a heartbeat; a heartbeat.
  void Answered(WorkerId worker, absl::Time now);
  void Heard(WorkerId worker, absl::Time now);
  // True when with it all members are ready: serving may begin. Other epochs than the present one
  // are ignored.
  bool Ready(WorkerId worker, Epoch epoch);
  // It has loaded. If the unit is paused, the next epoch may be announced; else it is an entrant.
  // False: it was not asked.
  bool Loaded(WorkerId worker, absl::Time now, std::vector<Command>& commands);
  // It cannot connect to others in this epoch, or they not to it: Settle decides, when it has been
  // heard who else cannot.
  void Unconnected(const ConnectFailed& event, absl::Time now);
  // Ends an epoch whose members cannot all connect. The next one is announced without those that
  // are in the way (LeaveOut), who stay and enter again later; with all of them if the unit is not
  // formed, or would have to pause without them.
  std::optional<EpochEnd> Settle(absl::Time now, std::vector<Command>& commands);
  // Ends the epoch without a loss: all that have loaded are assigned anew, entrants with them.
  void Raise(absl::Time now, std::vector<Command>& commands);
  // Ends the epoch because a step failed. After three such epochs, or two if they took long,
  // whoever is in the way is left out: peers that connect and then hear nothing of each other
  // (FailedSteps). event: the first word of it; why: what it comes to.
  void StepFailed(const StepDone& event, const absl::Status& why, absl::Time now,
                  std::vector<Command>& commands);
  // The ranks of `named` that are members of the epoch announced last beside `by`, each once.
  std::vector<RankId> OtherMembers(RankId by, absl::Span<const RankId> named) const;
  // In a step that failed, of this epoch or the one before, the worker waited for these ranks.
  void Waited(WorkerId worker, Epoch epoch, absl::Span<const RankId> ranks);
  // A step was committed: epochs come to something.
  void Progressed(absl::Time now);

  Epoch epoch() const { return epoch_; }
  // Every rank was ready once: from now on the unit goes on without some of them.
  bool formed() const { return formed_; }
  // Somebody has loaded, or was left out for long enough, and is not in the epoch; who, for people.
  bool has_entrants() const { return !entrants_.empty(); }
  const std::string& entrants() const { return entrants_; }
  absl::Time entrants_since() const { return entrants_since_; }  // the last one
  // The unit is formed and its next epoch waits for nobody to come: members are connecting.
  bool connecting() const { return formed_ && announced_ && unready_ > 0; }
  // Since when there is no epoch whose members are all ready: the announcement of the first one
  // then.
  absl::Time connecting_since() const { return connecting_since_; }
  // Which expert has no holder; empty if none lacks one, or the unit is not formed yet.
  const std::string& paused() const { return paused_; }
  // Who holds what when nobody is absent; null until all workers of the first epoch are known.
  const ExpertPlacement* placement() const { return placement_.get(); }
  // Of the epoch, or while paused of those that have loaded. No ranks until `placement` is known.
  const Redundancy& redundancy() const { return redundancy_; }
  const Roster& roster() const { return roster_; }
  // The member of the present epoch at this rank, else null.
  const Member* MemberAt(RankId rank) const;

 private:
  // What a change of the roster leads to: ranks are told, an epoch is announced.
  void Follow(absl::Time now, std::vector<Command>& commands);
  void Announce(absl::Time now, std::vector<Command>& commands);
  // Whether the epoch, or what is left of the last one, ends with this member.
  bool CountsFor(const Member& member) const;
  std::vector<RankId> AbsentRanks() const;
  // Ranks of members without whom all others get on, of those that the unit can do without; if it
  // needs them all, `needed` ones.
  struct InTheWay {
    std::vector<RankId> ranks;
    bool needed = false;
    std::vector<RankId> others;  // of whom faults are known too, and that can stay
  };
  // Forgets such faults of members who have connected to each other, or made steps together, or
  // have said whom else they do not reach; and all of whoever is gone.
  void ForgetFaults(KnownFault::In in);
  // What is said there of pairs whose steps are known to have failed before: once more is enough.
  std::vector<Accusation> Relapses(const StepDone& event) const;
  // These accusations come to what is known of before. If then the unit needs whoever is in the
  // way, only they do.
  InTheWay WhoIsInTheWay(KnownFault::In in, absl::Span<const Accusation> accusations);
  // Leaves them out; one that was left out before loses its rank if a standby is there to take it.
  // Needed ones try again with all others, also with those that were left out; after a while
  // standbys take their ranks, one at a time. since: nothing goes on for them.
  void KeepOut(const InTheWay& out, absl::Time since, absl::Time now,
               std::vector<Command>& commands);
  // A standby, which was not left out itself, takes its rank. False: there is none, or it must keep
  // that rank.
  bool Replace(Member& member, absl::Time now, std::vector<Command>& commands);
  // There is no epoch to announce: nobody is asked for anything but to load.
  void Wait(std::string why);
  // Who was left out for long enough may enter again: true if there is one. Adds those that have
  // said nothing since they were asked to connect: they hang.
  bool EndLeaves(absl::Time now, std::vector<Eviction>& out);
  void EndEpoch();
  // By rank, the host of who holds it, numbered as they appear; -1: nobody does.
  std::vector<int> Hosts() const;
  void PlanExperts();
  void Recount();
  // Adds those that have not done in time what they were asked.
  void BlameOverdue(absl::Time now, std::vector<Eviction>& out);

  const std::vector<int> n_routed_experts_;
  PlacementRequest placement_request_;  // hosts are known when it is planned
  const absl::Duration heartbeat_timeout_;
  const absl::Duration connect_timeout_;  // from AssignRank to WorkerReady, with weights in place
  const absl::Duration loading_timeout_;
  std::shared_ptr<const ExpertPlacement> placement_;
  Roster roster_;
  Epoch epoch_;
  bool formed_ = false;
  bool announced_ = false;  // `epoch_` was, and is not over
  bool begun_ = true;       // the epoch announced last: all its members were ready
  absl::Time connecting_since_;
  absl::Time announced_at_ = absl::InfinitePast();  // the last epoch
  int vain_connects_ = 0;                           // epochs in a row that were not connected
  int vain_steps_ = 0;    // epochs in a row that a failed step ended, and none was committed in
  bool spacing_ = false;  // the next one could be announced, but so many were in vain
  absl::Time unconnected_since_ = absl::InfiniteFuture();  // since then epochs are not connected
  int unready_ = 0;                             // members of the announced epoch not ready
  Accusations accusations_;                     // of the announced epoch
  std::shared_ptr<const UnitMembers> members_;  // of the epoch announced last
  UnitMembers failed_members_;                  // of the epoch that failed last, and there since
  FailedSteps failed_steps_;                    // of epochs in a row
  absl::Time first_commit_ = absl::InfiniteFuture();  // of this epoch
  bool steps_are_fine_ = false;                       // in this epoch: enough of them
  KnownFaults known_faults_;
  std::string entrants_;
  absl::Time entrants_since_;
  std::string paused_;
  Redundancy redundancy_;
};

}  // namespace shoal
