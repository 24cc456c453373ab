// SPDX-License-Identifier: Apache-2.0
// Holds what the core is told and what it commands against what must always be true. It knows the rules of
// the protocol and the right text of every request, and nothing of how the core works.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "coordinator/core/core.h"
#include "coordinator/sim/sim_model.h"

namespace shoal::sim {

// What happened in a world: that it had in it what it is about.
struct WorldCounts {
  int64_t finished = 0;        // choices
  int64_t survived = 0;        // of them, those during which an epoch ended
  int64_t failed = 0;          // by their deadline, too large, logits that are no numbers
  int64_t cancelled = 0;
  int64_t rejected = 0;        // requests
  int64_t epochs = 0;          // after the first
  int64_t deaths = 0;          // of processes
  int64_t restarts = 0;        // of the coordinator
  int64_t outages = 0;         // behind beating hearts
  int64_t losses = 0;          // of workers, as the core sees it
  int64_t false_alarms = 0;    // of them, those whose process lived
  int64_t pauses = 0;          // an expert had no holder
  int64_t rewinds = 0;         // sequences that outlived an epoch in their worker
  int64_t replays = 0;         // sequences that came back with tokens already committed
  int64_t steps = 0;
  int64_t absent_steps = 0;    // without some rank
  int64_t planned_ahead = 0;
  int64_t stale_events = 0;    // of other epochs, heard twice, or forged
  int64_t preemptions = 0;
  int64_t cache_hits = 0;      // tokens
  int64_t events = 0;

  void Add(const WorldCounts& other);
};

class Auditor {
 public:
  // Problems are appended to `problems`.
  Auditor(const CoreConfig& config, const SimModelShape& shape, WorldCounts& counts,
          std::vector<std::string>& problems);

  // The core is about to be told `event`; then it has been, and said `commands`. `calm`: nothing has gone
  // wrong in this world so far, so nobody may be evicted.
  void Before(const Event& event, absl::Time now);
  void After(const Event& event, const std::vector<Command>& commands, bool calm);
  // `event` must have no effect.
  void HadNoEffect(const Event& event, const std::vector<Command>& commands);
  void CheckSnapshot(const ClusterSnapshot& snapshot);
  // Nothing goes wrong any more: has everything come to its end? What is still open, or empty.
  std::string Unsettled(const ClusterSnapshot& snapshot) const;
  // Everything has.
  void CheckSettled(const ClusterSnapshot& snapshot);

  // Live requests, ascending.
  std::vector<RequestId> LiveRequests() const;
  int64_t live() const { return live_; }  // their number
  const Request& request(RequestId id) const { return clients_.at(id).request; }
  bool IsConnected(WorkerId worker) const { return connected_.contains(worker); }
  bool IsMember(WorkerId worker) const;
  bool formed() const { return formed_; }
  // All members of the epoch are ready, and none is lost.
  bool serving() const { return !over_ && static_cast<int>(ready_.size()) == size_; }
  Epoch epoch() const { return epoch_; }
  // Null before the first epoch.
  const ExpertPlacement* placement() const { return full_placement_.get(); }
  StepId last_planned() const { return last_planned_; }
  // When a token was emitted last.
  absl::Time last_token() const { return last_token_; }

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
  struct Connected {
    int64_t blocks = 0;
    std::optional<RankId> rank;  // as told
    bool holds = false;          // has reported to hold its experts
    Epoch ready;                 // the last one it was ready for
  };
  struct StepCheck {
    int plans = 0;
    std::set<WorkerId> reported;
  };
  // A sequence's block table as of the plans sent; the worker knows of the first `told` ones.
  struct Table {
    std::vector<BlockId> blocks;
    size_t told = 0;
  };

  void Problem(const std::string& what);
  bool IsStale(const Event& event) const;
  void NoteRequest(const Request& request);
  void NoteCancel(const RequestCancelled& event);
  void NoteReport(const StepDone& done);

  void Obeyed(const AssignRank& command);
  void Obeyed(const LoadExperts& command);
  void Obeyed(const SendPlan& command);
  void Obeyed(const EvictWorker& command);
  void Obeyed(const Emit& command);
  void Obeyed(const Reject& command);
  void Obeyed(const Drained& command);
  void BeginEpoch(const AssignRank& command);
  void CheckPlacement();
  void CheckBlocks(const SendPlan& command);
  void CheckEnd(const Client& client, const Choice& choice, const Emit& emit);
  void CheckComplete();
  bool Covered() const;
  void CheckWorker(const WorkerSnapshot& worker);
  void CheckRecoveries(const ClusterSnapshot& snapshot);

  const CoreConfig config_;
  const SimModelShape shape_;
  WorldCounts& counts_;
  std::vector<std::string>& problems_;
  absl::Time now_;
  bool stale_ = false;
  bool calm_ = true;

  std::map<RequestId, Client> clients_;
  int64_t live_ = 0;
  bool draining_ = false;
  bool drained_ = false;

  std::map<WorkerId, Connected> connected_;
  Epoch epoch_;
  std::vector<std::optional<WorkerId>> members_;  // of the present epoch
  int size_ = 0;                                  // how many they are
  int assigned_ = 0;                              // to how many of them it was announced
  bool over_ = true;                              // it was lost, or has not begun
  bool formed_ = false;                           // all ranks were ready once
  std::set<WorkerId> ready_;                      // for it
  std::set<WorkerId> told_;                       // its first plan
  std::shared_ptr<const ExpertPlacement> full_placement_;
  std::optional<ExpertPlacement> placement_;  // of the epoch
  std::map<StepId, StepCheck> steps_;                 // of the epoch
  StepId last_planned_;
  StepId committed_;
  absl::Time last_token_;
  bool commits_now_ = false;  // the event being told completes a step
  std::map<WorkerId, std::map<SequenceId, Table>> tables_;
  bool was_paused_ = false;
  int64_t were_live_ = 0;
};

}  // namespace shoal::sim
