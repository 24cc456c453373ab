// SPDX-License-Identifier: Apache-2.0
// A seeded world of faked workers around the real core, in which links and a worker have faults
// that stay: links are cut, links connect and then spoil all steps or large ones, an engine hangs
// behind a heart that beats. After a while other faults come, and the first ones stay or go; in the
// end all are gone.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "coordinator/core/core.h"
#include "coordinator/core/events.h"
#include "engine/config/expert_placement.h"

namespace shoal::testing {

constexpr absl::Duration kStepTimeout = absl::Seconds(5);

// Of two ranks, the smaller one first.
using Link = std::pair<int, int>;

struct Faults {
  std::set<Link> cut;    // they cannot connect, and hear nothing of each other
  std::set<Link> lossy;  // they connect, and then messages are lost or corrupt
  std::optional<int> hung;

  bool Touch(int rank) const;
  void Add(const Faults& more);
  std::string Text() const;  // " cut 1-2 hung 3"
};

// What a world shows.
struct Outcome {
  std::string world;             // its seed and its faults
  bool possible = false;         // some ranks hold all experts and have no fault among themselves
  absl::Duration longest_pause;  // between ends of requests, with faults
  absl::Duration longest_out;    // in all, of a worker without any fault
  int wrongly_evicted = 0;       // workers without any fault
  int64_t epochs = 0;            // with faults
  absl::Duration healed_after;   // all serve again
  absl::Duration pause_when_healing;  // until then
  absl::Duration pause_when_healed;
};

// Ranks, as many workers, and the core. Whoever is evicted dials in again.
class World {
 public:
  explicit World(uint32_t seed);
  Outcome Run();

 private:
  Faults DrawFaults(int most, bool may_hang);
  void DrawLinks(int most, std::set<Link>& links);
  bool Possible(const Faults& faults) const;
  void Begin(const Faults& faults);
  void RunFor(absl::Duration time);
  void RunTick();
  absl::Duration LongestPause();  // since it was asked last
  bool AllServe() const;

  void Do(const Event& event);
  void On(const AssignRank& assign);
  void On(const LoadExperts& load) { After(absl::Milliseconds(100), WorkerLoaded{load.worker}); }
  void On(const SendPlan& send);
  void On(const EvictWorker& evict);
  void On(const Emit& emit);
  void On(const Reject&) {}
  void On(const Drained&) {}

  void Join(int rank, absl::Duration delay);
  void RunStep(const std::vector<SendPlan>& plans);
  void FailStep(const std::vector<SendPlan>& plans, absl::Duration start, bool large);
  // By rank, from whom it hears nothing in this step.
  std::vector<std::vector<RankId>> Missing(const std::set<Link>& links, bool hung);
  StepDone Report(const SendPlan& send) const;

  bool IsMember(int rank) const { return (*members_)[rank].has_value(); }
  bool CanConnect(int rank, int peer) const;
  int Random(int below) { return static_cast<int>(random_() % below); }
  absl::Duration Jitter(int ms) { return absl::Milliseconds(Random(ms) + 1); }
  void After(absl::Duration delay, Event event) { events_.emplace(now_ + delay, std::move(event)); }

  const uint32_t seed_;
  std::mt19937 random_;
  const int ranks_;
  std::unique_ptr<Core> core_;
  absl::Time now_ = absl::UnixEpoch() + absl::Seconds(100);
  std::multimap<absl::Time, Event> events_;
  std::vector<Event> of_the_hung_;  // comes when it hangs no more

  bool corrupt_ = false;        // lossy links bend messages, which is seen at once
  bool small_pass_ = false;     // and let small ones pass
  bool hung_connects_ = false;  // what hangs is not what connects
  Faults faults_;               // now
  Faults all_faults_;           // of all times

  std::map<WorkerId, int> rank_of_;            // of all there ever were
  std::vector<std::optional<WorkerId>> here_;  // by rank
  int64_t last_worker_ = 0;
  int64_t last_request_ = 0;
  Epoch epoch_;
  std::shared_ptr<const UnitMembers> members_;
  std::shared_ptr<const ExpertPlacement> placement_;
  std::map<StepId, std::vector<SendPlan>> plans_;
  absl::Time busy_until_;

  absl::Time last_finish_ = now_;
  absl::Duration longest_pause_;
  std::vector<absl::Duration> out_;  // by rank, so long left out without a fault
  int wrongly_evicted_ = 0;
  int64_t epochs_ = 0;
};

}  // namespace shoal::testing
