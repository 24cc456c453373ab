// SPDX-License-Identifier: Apache-2.0
// A whole cluster of values around the real core, driven by a seed: clients, workers that die, stall,
// hang, break, lose their connection and come back, messages that arrive late or again. Checks after
// every event what must always hold.
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
#include "tests/property/core_fake_worker.h"

namespace shoal::testing {

// What happened in a world, to see that the tests meet what they are about.
struct WorldCounts {
  int64_t finished = 0;
  int64_t failed = 0;  // deadlines, and requests that have become too large
  int64_t rejected = 0;
  int64_t cancelled = 0;
  int64_t epochs = 0;          // after the first
  int64_t losses = 0;          // of workers, noticed by the core
  int64_t returns = 0;         // of workers that had never died
  int64_t pauses = 0;          // times that an expert had no holder
  int64_t rewinds = 0;         // sequences that outlived an epoch in their worker
  int64_t absent_steps = 0;    // steps without some rank
  int64_t stale_events = 0;    // of other epochs, or heard twice
  int64_t survived_texts = 0;  // choices that finished although an epoch ended meanwhile
  int64_t idle_plans = 0;      // plans without rows
  int64_t planned_ahead = 0;   // plans sent before the step before was reported
  int64_t preemptions = 0;
  int64_t cache_hits = 0;
  int64_t steps = 0;

  void Add(const WorldCounts& other);
};

class World : private FakePeers {
 public:
  explicit World(uint64_t seed);

  // Runs everything to its end. `problems` is empty if all was well.
  void Run();

  std::vector<std::string> problems;
  WorldCounts counts;
  // A digest of all commands in their order.
  uint64_t transcript = 0;

 private:
  struct Choice {
    Reference reference;
    size_t said = 0;
    bool ended = false;
    bool cancelled = false;
    Epoch began;
  };
  struct Client {
    Request request;
    std::vector<Choice> choices;
    bool rejected = false;
  };
  // A process, as it is connected. One that is not is in `unplugged_`.
  struct Plug {
    std::unique_ptr<FakeWorker> worker;
    std::string host;
    bool hangs = false;   // sends heartbeats and nothing else
    bool silent = false;  // sends nothing at all
    bool blamed = false;  // may be evicted
  };
  struct StepCheck {
    int plans = 0;
    std::set<WorkerId> reported;  // OK reports delivered
    int executed = 0;
    int rows = 0;
  };
  // A sequence's block table as of the plans sent; the worker knows of the first `told` ones.
  struct Table {
    std::vector<BlockId> blocks;
    size_t told = 0;
  };

  // What workers see of each other.
  bool Connected(Epoch epoch, const Members& members) override;
  void Contribute(WorkerId worker, Epoch epoch, StepId step) override;
  bool Complete(Epoch epoch, StepId step, const Members& members) override;
  StepId Committed() override { return committed_; }

  uint64_t Draw(uint64_t below) { return random_() % below; }
  bool Chance(int percent) { return Draw(100) < static_cast<uint64_t>(percent); }
  void Problem(const std::string& what);

  // core_world.cc: what happens.
  void Act();
  void ActOnRequests();
  void Settle();
  void CheckSettled(bool drains);
  bool DeliverAll();
  Request DrawRequest();
  void Arrive(Request request);
  void CancelOne();
  bool Progress(WorkerId id);
  bool Deliver(FakeWorker& worker);
  void PassTime(absl::Duration time);

  // core_world_faults.cc: what goes wrong.
  void ActOnFaults();
  void Bogus();
  void BogusRequest();
  void BogusReport(WorkerId worker);
  void StartProcess();
  void Plugin(std::unique_ptr<FakeWorker> worker, std::string host);
  // The connection ends; what it had still to bring arrives later, or never.
  std::unique_ptr<FakeWorker> Unplug(WorkerId id);
  void Lose(WorkerId id, bool dies);
  void ReturnOne();
  bool SeesDeadPeer(const FakeWorker& worker) const;
  void GiveUpWaiting();
  std::optional<WorkerId> AnyWorker();

  // core_world_checks.cc: what the core does, and whether it may.
  void Feed(const Event& event);
  // One that must have no effect.
  void FeedStale(const Event& event);
  bool IsStale(const Event& event) const;
  bool IsMember(WorkerId worker) const;
  void Note(const Event& event);
  void Obey(const AssignRank& command);
  void Obey(const LoadExperts& command);
  void Obey(const SendPlan& command);
  void Obey(const EvictWorker& command);
  void Obey(const Emit& command);
  void Obey(const Reject& command);
  void Obey(const Drained& command);
  void BeginEpoch(const AssignRank& command);
  void CheckPlacement(const AssignRank& command);
  void CheckEnd(const Client& client, const Choice& choice, const Emit& emit);
  void CheckComplete();
  // Whether those who hold experts hold all of them.
  bool Covered() const;
  void CheckSnapshot();
  void CheckWorker(const WorkerSnapshot& worker);
  void CheckRecoveries(const ClusterSnapshot& snapshot);
  void Digest(const Command& command);

  std::mt19937_64 random_;
  CoreConfig config_;
  std::unique_ptr<Core> core_;
  absl::Time now_ = absl::UnixEpoch();
  std::vector<std::vector<int32_t>> shared_prompts_;
  bool peaceful_ = false;  // no faults in this world

  std::map<WorkerId, Plug> workers_;
  std::vector<Plug> unplugged_;
  std::vector<Event> late_;  // from connections that ended, and repetitions
  int64_t last_worker_ = 0;
  std::map<RequestId, Client> clients_;
  int64_t last_request_ = 0;
  bool settling_ = false;
  bool draining_ = false;
  bool drained_ = false;

  Epoch epoch_;
  Members members_;               // of the present epoch
  int size_ = 0;                  // how many they are
  int assigned_ = 0;              // to how many of them it was announced
  bool over_ = true;              // it was lost, or has not begun
  std::set<WorkerId> ready_;      // for it, as reported
  std::set<WorkerId> told_;       // its first plan
  std::set<WorkerId> holders_;    // connected, and have reported to hold their experts
  bool formed_ = false;           // all ranks were ready once
  std::shared_ptr<const ExpertPlacement> full_placement_;
  std::shared_ptr<const ExpertPlacement> placement_;  // of the epoch
  std::map<StepId, StepCheck> steps_;                 // of the epoch
  StepId last_planned_;
  StepId committed_;
  bool commits_now_ = false;  // the event being fed completes a step
  bool somebody_hangs_ = false;
  std::map<std::pair<Epoch, StepId>, std::set<WorkerId>> contributions_;
  std::map<WorkerId, std::map<SequenceId, Table>> tables_;
  bool was_paused_ = false;
  int64_t feeds_ = 0;
};

}  // namespace shoal::testing
