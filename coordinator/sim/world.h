// SPDX-License-Identifier: Apache-2.0
// A whole cluster made from a seed: clients, the real core, real workers on fibers, a network between all of
// them, and everything that can go wrong. One thread, a virtual clock; equal seeds and options give equal
// worlds, event by event.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "coordinator/core/core.h"
#include "coordinator/sim/auditor.h"
#include "coordinator/sim/core_thread.h"
#include "coordinator/sim/network.h"
#include "coordinator/sim/process.h"
#include "coordinator/sim/random.h"
#include "coordinator/sim/switchboard.h"
#include "coordinator/sim/timeline.h"

namespace shoal::sim {

struct WorldOptions {
  // 0: the seed decides, among small ones.
  int workers = 0;
  int holders = 0;
  bool trace = false;  // write down what happens, one line each
};

// What is in a world. The seed draws it; a measurement states it.
struct WorldPlan {
  CoreConfig core;
  SimModelShape shape;
  NetworkOptions network;
  bool peaceful = false;
  bool outages = false;     // links, ports and engines fail for long, behind hearts that beat
  bool few_faults = false;  // of other kinds
  absl::Duration busy_time = absl::Seconds(4);  // requests come and things go wrong
  int requests = 30;
  absl::Duration load_time = absl::Milliseconds(100);
  absl::Duration step_time = absl::Microseconds(300);
  absl::Duration drain = absl::InfiniteDuration();  // so long after the beginning
  int hosts = 3;
  bool fixed_ranks = false;  // every process can have one rank only, and nobody stands by
  bool even_hosts = false;  // as many workers on each as on any other, if the numbers divide
};
WorldPlan DrawPlan(uint64_t seed, const WorldOptions& options);

class World {
 public:
  World(uint64_t seed, const WorldPlan& plan, bool trace);
  World(uint64_t seed, const WorldOptions& options)
      : World(seed, DrawPlan(seed, options), options.trace) {}
  ~World();

  // Runs everything to its end. `problems` is empty if all was well.
  void Run();

  std::vector<std::string> problems;
  WorldCounts counts;
  // What happened, if it is written down; and a digest of the core's events and commands, always.
  const std::deque<std::string>& trace() const { return trace_; }
  uint64_t digest() const { return digest_; }

  // --- For worlds that do one certain thing ---

  // Runs until `done`, which is asked after every event, or `limit` of virtual time. False: the limit.
  bool RunUntil(const std::function<bool()>& done, absl::Duration limit);
  // Starts all workers and the clock.
  void Begin();
  void Kill(int rank);
  Process* StartProcess(int host);  // null: no rank is free for it
  // The process at this rank; null: there is none. What is done to one or to the network is a
  // fault.
  Process* ProcessAt(int rank);
  Network& BreakNetwork();
  void Arrive(Request request);
  Request DrawRequest();
  ClusterSnapshot Snapshot() const { return core_->Snapshot(timeline_.now()); }
  // Called around every event that the core is told.
  struct Told {
    const Event& event;
    const std::vector<Command>& commands;
    absl::Duration cpu;  // of the core
  };
  // From now on the core has a thread of its own, and is timed.
  void SetObserver(std::function<void(const Told&)> observer) {
    observer_ = std::move(observer);
    core_thread_ = std::make_unique<CoreThread>();
  }
  absl::Time now() const { return timeline_.now(); }
  Timeline& timeline() { return timeline_; }
  bool serving() const { return auditor_->serving(); }
  const Auditor& auditor() const { return *auditor_; }
  // Writes that down, if anything is.
  void Note(const std::function<std::string()>& line);
  // By worker, over all its life.
  std::vector<int64_t> ReceivedBytes() const { return network_.ReceivedBytes(); }

 private:
  // world.cc: what happens.
  bool RunNext();
  void Post(Event event);
  void Tell(const Event& event);
  void TellNonsense(const Event& event);
  void Execute(const Command& command);
  void Tick();
  void NextRequest();
  void CancelOne();
  void ArrivePoisoned();
  void Settle();
  void CheckWhetherSettled();
  void CountWhatTheCoreCounts();
  void Problem(const std::string& what);
  void Digest(const Event& event, const std::vector<Command>& commands);

  // world_faults.cc: what goes wrong.
  void NextFault();
  void BreakSomething();
  void NextOutage();
  void RestartCoordinator();
  void ForgeSomething();
  void ForgeReport(WorkerId worker);
  void ForgeRequest();
  // A new process in the place of one that is over, on its host or on another one.
  void StartAnew(int host);
  // The lowest rank that no live process has, if ranks are fixed; -1: none is free.
  int FreeFixedRank() const;
  Process* AnyProcess() { return AnyProcess(fault_random_); }
  Process* AnyProcess(Random& random);
  WorkerId AnyWorker();
  int LiveProcesses() const;

  const uint64_t seed_;
  const WorldPlan plan_;
  const bool trace_on_;
  Random random_;        // of clients
  Random fault_random_;
  Random outage_random_;
  Timeline timeline_;
  Network network_;
  Switchboard switchboard_;
  std::vector<std::unique_ptr<Process>> processes_;  // dead ones too
  std::unique_ptr<Core> core_;
  std::optional<Auditor> auditor_;  // of the present core: another one begins with another core
  std::function<void(const Told&)> observer_;
  std::unique_ptr<CoreThread> core_thread_;  // with an observer

  std::vector<std::vector<int32_t>> shared_prompts_;
  int64_t last_request_ = 0;
  int requests_left_ = 0;
  bool settling_ = false;
  bool settled_ = false;
  bool calm_ = true;  // nothing has gone wrong so far
  absl::Time settle_limit_;
  std::vector<Event> heard_;       // to be heard again, too late
  std::deque<Event> backlog_;      // while the coordinator stands still
  bool stalled_ = false;
  std::deque<std::string> trace_;
  uint64_t digest_ = 0;
};

}  // namespace shoal::sim
