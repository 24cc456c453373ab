// SPDX-License-Identifier: Apache-2.0
// Shows what a step of steady decode costs the coordinator, and holds that planning it allocates
// nothing per sequence: a unit of 8 and one of 1,024 ranks, 64 sequences on each, driven through
// the core's own functions. Prints CPU time per step, apart for planning (what stands between one
// step and the next) and for filing and committing results (which overlaps with the step that
// runs).
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <new>
#include <vector>

#include "coordinator/core/admission.h"
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
