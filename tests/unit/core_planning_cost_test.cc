// SPDX-License-Identifier: Apache-2.0
// Shows what a step of steady decode costs the coordinator, and holds that planning it allocates
// nothing per sequence: a unit of 8 and one of 1,024 ranks, 64 sequences on each, driven through
// the core's own functions. Prints CPU time per step, apart for planning (what stands between one
// step and the next) and for filing and committing results (which overlaps with the step that
// runs). And what it costs to go on when one of 1,024 workers dies: from the loss to the first plan of
// the next epoch, through the core's events.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <map>
#include <memory>
#include <new>
#include <vector>

#include "absl/strings/str_cat.h"
#include "coordinator/core/admission.h"
#include "coordinator/core/core.h"
#include "coordinator/core/serving_state.h"
#include "coordinator/core/step_planner.h"
#include "coordinator/core/step_results.h"
#include "gtest/gtest.h"

namespace {
int64_t allocations = 0;
}  // namespace

// Not inlined: the compiler would see malloc and delete, or new and free, side by side and object.
[[gnu::noinline]] void* operator new(size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new(size_t size, const std::nothrow_t&) noexcept {
  ++allocations;
  return std::malloc(size);
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace shoal {
namespace {

constexpr int kSequencesPerRank = 64;

double CpuMicros() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return 1e6 * static_cast<double>(t.tv_sec) + 1e-3 * static_cast<double>(t.tv_nsec);
}

struct StepCost {
  double plan_us = 0;
  double commit_us = 0;
  int64_t plan_allocations = 0;
};

double Median(std::vector<StepCost> costs, double StepCost::*part) {
  std::sort(costs.begin(), costs.end(),
            [&](const StepCost& a, const StepCost& b) { return a.*part < b.*part; });
  return costs[costs.size() / 2].*part;
}

class Unit {
 public:
  explicit Unit(int ranks) : state_(ConfigOf(ranks)) {
    for (int r = 0; r < ranks; ++r) state_.ranks.emplace_back(WorkerId(r), 4096, 64);
    state_.serving = true;
    state_.most_blocks = 4096;
    for (int64_t i = 0; i < int64_t{ranks} * kSequencesPerRank; ++i) {
      Request request;
      request.id = RequestId(i);
      request.prompt = {static_cast<int32_t>(i), 1, 2, 3, 4, 5, 6, 7};
      request.max_tokens = 4000;
      Arrive(state_, std::move(request), now_, commands_);
    }
    planner_.PlanSteps(state_, now_, commands_);
  }

  StepCost RunStep() {
    for (const InFlightStep::Share& share : state_.in_flight.front().shares) {
      StepDone& done = reports_.emplace_back();
      done.step = state_.in_flight.front().id;
      for (const Expected& expected : share.expected) {
        done.tokens.push_back(SampledToken{expected.id, expected.position, 9, std::nullopt});
      }
    }
    commands_.clear();
    StepCost cost;
    const double begin = CpuMicros();
    for (size_t r = 0; r < reports_.size(); ++r) {
      EXPECT_TRUE(FileResults(state_, RankId(static_cast<int32_t>(r)), reports_[r]).ok());
    }
    CommitSteps(state_, now_, commands_);
    const double committed = CpuMicros();
    cost.commit_us = committed - begin;
    const int64_t allocations_before = allocations;
    planner_.PlanSteps(state_, now_, commands_);
    cost.plan_allocations = allocations - allocations_before;
    cost.plan_us = CpuMicros() - committed;
    reports_.clear();
    return cost;
  }

  int64_t running() const {
    int64_t running = 0;
    for (const RankBatch& rank : state_.ranks) running += static_cast<int64_t>(rank.running.size());
    return running;
  }
  size_t last_commands() const { return commands_.size(); }

 private:
  static CoreConfig ConfigOf(int ranks) {
    CoreConfig config;
    config.workers = ranks;
    config.max_context = 8192;
    config.max_queued_requests = 1 << 20;
    return config;
  }

  ServingState state_;
  StepPlanner planner_;
  absl::Time now_ = absl::UnixEpoch();
  std::vector<Command> commands_;
  std::vector<StepDone> reports_;
};

void Measure(int ranks, int steps) {
  Unit unit(ranks);
  const int64_t sequences = int64_t{ranks} * kSequencesPerRank;
  for (int i = 0; i < 8; ++i) unit.RunStep();  // prefill, and memory that steps keep
  ASSERT_EQ(unit.running(), sequences);
  std::vector<StepCost> costs;
  std::vector<int64_t> plan_allocations;
  for (int i = 0; i < steps; ++i) {
    costs.push_back(unit.RunStep());
    plan_allocations.push_back(costs.back().plan_allocations);
    ASSERT_EQ(unit.last_commands(), static_cast<size_t>(sequences + ranks));
  }
  std::sort(plan_allocations.begin(), plan_allocations.end());
  const double plan_us = Median(costs, &StepCost::plan_us);
  const double commit_us = Median(costs, &StepCost::commit_us);
  std::printf(
      "%d ranks x %d sequences: planning %.1f us, filing and committing %.1f us a step "
      "(medians of %d); allocations while planning: median %lld, least %lld\n",
      ranks, kSequencesPerRank, plan_us, commit_us, steps,
      static_cast<long long>(plan_allocations[plan_allocations.size() / 2]),
      static_cast<long long>(plan_allocations.front()));
  // Sequences arrive together, so the blocks they need fall into few steps; in the others planning
  // allocates at most a little per step, whatever the number of sequences.
  EXPECT_LE(plan_allocations[plan_allocations.size() / 2], 8);
  EXPECT_LT(plan_us, 1.0 * static_cast<double>(sequences)) << "a microsecond per sequence";
}

// 1,024 workers, 64 sequences on each, 58 layers of 256 experts with two holders.
TEST(CorePlanningCost, GoingOnWithoutOneOfAThousand) {
  constexpr int kRanks = 1024;
  CoreConfig config;
  config.workers = kRanks;
  config.n_routed_experts.assign(61, 256);
  for (int dense = 0; dense < 3; ++dense) config.n_routed_experts[dense] = 0;
  config.holders = 2;
  config.max_context = 8192;
  config.max_queued_requests = 1 << 20;
  const std::unique_ptr<Core> core = Core::Create(config);
  const absl::Time now = absl::UnixEpoch();
  std::vector<Command> commands;
  double began = CpuMicros();
  for (int w = 0; w < kRanks; ++w) {
    core->Step(WorkerJoined{WorkerId(w), absl::StrCat("host", w / 8), w, 4096, std::nullopt}, now,
               commands);
  }
  const double forming = CpuMicros() - began;
  for (int w = 0; w < kRanks; ++w) {
    core->Step(WorkerReady{WorkerId(w), Epoch(1)}, now, commands);
  }
  for (int64_t i = 0; i < int64_t{kRanks} * kSequencesPerRank; ++i) {
    Request request;
    request.id = RequestId(i);
    request.prompt.assign(256, 1);
    request.prompt[0] = static_cast<int32_t>(i);
    request.max_tokens = 4000;
    core->Step(RequestArrived{std::move(request)}, now, commands);
  }
  // Answers what was planned, until all sequences decode and steps are in flight.
  std::vector<std::map<SequenceId, int32_t>> decoding(kRanks);  // position of the next token
  const auto answer = [&](std::vector<Command>& plans) {
    std::vector<StepDone> reports;
    for (const Command& command : plans) {
      const auto* send = std::get_if<SendPlan>(&command);
      if (send == nullptr) continue;
      StepDone& done = reports.emplace_back();
      done.worker = send->worker;
      done.epoch = send->plan.epoch;
      done.step = send->plan.step;
      std::map<SequenceId, int32_t>& positions = decoding[send->worker.value()];
      std::map<SequenceId, int32_t> joining;
      for (const SequenceWork& work : send->plan.plan.work) {
        if (work.sample && !positions.contains(work.id)) joining[work.id] = work.start + work.count;
      }
      positions.merge(joining);
      for (auto& [id, position] : positions) {
        done.tokens.push_back(SampledToken{id, position++, 9, std::nullopt});
      }
    }
    plans.clear();
    for (const StepDone& done : reports) core->Step(done, now, plans);
  };
  // Enough steps for all prompts.
  for (int step = 0; step < 40; ++step) answer(commands);
  const ClusterSnapshot before = core->Snapshot(now);
  ASSERT_EQ(before.requests_running, int64_t{kRanks} * kSequencesPerRank);

  commands.clear();
  began = CpuMicros();
  core->Step(WorkerLost{WorkerId(7), "killed"}, now, commands);
  const double decided = CpuMicros();
  ASSERT_EQ(commands.size(), static_cast<size_t>(kRanks - 1));
  commands.clear();
  const double ready = CpuMicros();
  for (int w = 0; w < kRanks; ++w) {
    if (w != 7) core->Step(WorkerReady{WorkerId(w), Epoch(2)}, now, commands);
  }
  const double planned = CpuMicros();
  int64_t rewinds = 0;
  for (const Command& command : commands) {
    const auto* send = std::get_if<SendPlan>(&command);
    if (send != nullptr) rewinds += static_cast<int64_t>(send->plan.plan.rewind.size());
  }
  EXPECT_EQ(rewinds, int64_t{kRanks - 1} * kSequencesPerRank);
  const Recovery recovery = core->Snapshot(now).recoveries.at(0);
  EXPECT_EQ(recovery.rewound, rewinds);
  EXPECT_EQ(recovery.replayed, kSequencesPerRank);
  const double after = CpuMicros();
  core->Snapshot(now);
  std::printf(
      "%d ranks x %d sequences, one dies: epoch, placement and rewinds %.1f ms, all ready and two "
      "steps planned %.1f ms; a snapshot %.1f ms; forming the unit %.0f ms\n",
      kRanks, kSequencesPerRank, (decided - began) / 1000, (planned - ready) / 1000,
      (CpuMicros() - after) / 1000, forming / 1000);
}

TEST(CorePlanningCost, EightRanks) { Measure(8, 200); }

TEST(CorePlanningCost, ThousandRanks) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  Measure(64, 20);  // for the memory errors it might show; the time means nothing
#else
  Measure(1024, 20);
#endif
}

}  // namespace
}  // namespace shoal
