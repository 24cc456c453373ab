// SPDX-License-Identifier: Apache-2.0
// A whole cluster of values around the real core, driven by a seed: clients, workers that die,
// hang, break and come back, messages that arrive late. Checks after every event what must always
// hold.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "coordinator/core/core.h"
#include "tests/property/core_fake_worker.h"

namespace shoal::testing {

// What happened in a world, to see that the tests meet what they are about.
struct WorldCounts {
  int64_t finished = 0;
  int64_t failed = 0;
  int64_t rejected = 0;
  int64_t cancelled = 0;
  int64_t faults = 0;
  int64_t replayed_texts = 0;  // choices that finished although a fault came between
  int64_t idle_plans = 0;      // plans without rows
  int64_t planned_ahead = 0;   // plans sent before the step before was reported
  int64_t preemptions = 0;
  int64_t cache_hits = 0;
  int64_t steps = 0;
};

class World {
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
    int64_t faults_at_start = 0;
  };
  struct Client {
    Request request;
    std::vector<Choice> choices;
    bool rejected = false;
  };
  struct Plug {
    std::unique_ptr<FakeWorker> worker;
    bool hangs = false;   // sends heartbeats and nothing else
    bool silent = false;  // sends nothing at all
    bool blamed = false;  // may be evicted
  };

  uint64_t Draw(uint64_t below) { return random_() % below; }
  bool Chance(int percent) { return Draw(100) < static_cast<uint64_t>(percent); }
  void Problem(const std::string& what);

  void Act();
  void ActOnRequests();
  void ActOnFaults();
  void Bogus();
  void Settle();
  bool DeliverAll();

  Request DrawRequest();
  void Arrive(Request request);
  void CancelOne();
  void Join();
  // Executes a plan or delivers a message of the worker, if there is one.
  bool Progress(WorkerId id);
  void PassTime(absl::Duration time);
  void Feed(const Event& event);

  void Obey(const AssignRank& command);
  void Obey(const SendPlan& command);
  void Obey(const EvictWorker& command);
  void Obey(const Emit& command);
  void Obey(const Reject& command);
  void Obey(const Drained& command);
  void CheckEnd(const Client& client, const Choice& choice, const Emit& emit);
  void CheckPlansComplete();
  void CheckSnapshot();
  void Digest(const Command& command);

  std::mt19937_64 random_;
  CoreConfig config_;
  std::unique_ptr<Core> core_;
  absl::Time now_ = absl::UnixEpoch();
  std::vector<std::vector<int32_t>> shared_prompts_;
  bool peaceful_ = false;  // no faults in this world

  std::map<WorkerId, Plug> workers_;
  int64_t last_worker_ = 0;
  std::map<RequestId, Client> clients_;
  int64_t last_request_ = 0;
  bool draining_ = false;
  bool drained_ = false;

  struct StepCheck {
    int plans = 0;
    int reported = 0;  // OK reports delivered
    int executed = 0;
    int rows = 0;
  };
  Epoch epoch_;
  std::map<StepId, StepCheck> steps_;  // of the present epoch
  StepId last_planned_;
  std::map<WorkerId, std::map<SequenceId, std::vector<BlockId>>> tables_;  // as of the last plans
};

}  // namespace shoal::testing
