// SPDX-License-Identifier: Apache-2.0
// Shows that 1,024 workers re-plan after a death in under 50 ms of the core's CPU: the core alone with the
// expert layers of DeepSeek-V3 (what the placement costs), and a whole simulated unit with one layer, whose
// workers decode and really go through the change of epoch (what sequences cost).
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "absl/time/time.h"
#include "coordinator/core/core.h"
#include "coordinator/sim/core_thread.h"
#include "coordinator/sim/large_unit.h"
#include "gtest/gtest.h"

namespace shoal::sim {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(NDEBUG)
constexpr bool kTimed = false;  // such a build says nothing of time
constexpr int kWorkers = 64;
#else
constexpr bool kTimed = true;
constexpr int kWorkers = 1024;
#endif
constexpr absl::Duration kBar = absl::Milliseconds(50);

// A core whose workers answer at once.
class LoneCore {
 public:
  explicit LoneCore(const CoreConfig& config) : core_(Core::Create(config)) {}

  // Returns the CPU time of this event, and keeps its commands.
  absl::Duration Tell(const Event& event) {
    commands.clear();
    const absl::Duration begin = ThreadCpu();
    core_->Step(event, now_, commands);
    return ThreadCpu() - begin;
  }
  // All that were assigned become ready.
  absl::Duration Ready() {
    std::vector<Event> events;
    for (const Command& command : commands) {
      if (const auto* assign = std::get_if<AssignRank>(&command)) {
        events.emplace_back(WorkerReady{assign->worker, assign->epoch});
      }
    }
    absl::Duration cpu;
    for (const Event& event : events) cpu += Tell(event);
    return cpu;
  }

  std::vector<Command> commands;  // of the last event

 private:
  std::unique_ptr<Core> core_;
  absl::Time now_ = absl::UnixEpoch();
};

TEST(Replan, TheCoreAloneWithTheLayersOfDeepSeekV3) {
  CoreConfig config;
  config.workers = kWorkers;
  config.holders = 2;
  config.n_routed_experts.assign(61, 256);
  std::fill_n(config.n_routed_experts.begin(), 3, 0);
  config.redundant_experts = std::max(0, 2 * kWorkers - 512);  // two experts on every worker
  LoneCore core(config);
  for (int w = 1; w <= kWorkers; ++w) {
    WorkerJoined joined;
    joined.worker = WorkerId(w);
    joined.host = "host" + std::to_string(w / 8);
    joined.cache_blocks = 1000;
    core.Tell(joined);
  }
  core.Ready();
  const absl::Duration decide = core.Tell(WorkerLost{WorkerId(kWorkers / 2), "killed"});
  const auto assigned = std::count_if(core.commands.begin(), core.commands.end(), [](const auto& c) {
    return std::holds_alternative<AssignRank>(c);
  });
  ASSERT_EQ(assigned, kWorkers - 1);
  const absl::Duration resume = core.Ready();
  std::printf("%d workers, 58 MoE layers: decided in %.1f ms of CPU, all ready in %.1f ms\n", kWorkers,
              absl::ToDoubleMilliseconds(decide), absl::ToDoubleMilliseconds(resume));
  if (kTimed) {
    EXPECT_LT(decide + resume, kBar);
  }
}

TEST(Replan, AWholeSimulatedUnit) {
  LargeUnitOptions options;
  options.workers = kWorkers;
  const auto result = MeasureDeath(options);
  ASSERT_TRUE(result.ok()) << result.status();
  std::printf("decided in %.1f ms of CPU, resumed in %.1f ms; %lld sequences rewound, %lld replayed\n",
              absl::ToDoubleMilliseconds(result->decide_cpu),
              absl::ToDoubleMilliseconds(result->resume_cpu),
              static_cast<long long>(result->rewound), static_cast<long long>(result->replayed));
  EXPECT_GT(result->rewound, kWorkers);
  if (kTimed) {
    EXPECT_LT(result->decide_cpu + result->resume_cpu, kBar);
  }
}

TEST(Replan, WhatCannotBeIsSaid) {
  LargeUnitOptions options;
  options.workers = 4;
  options.holders = 5;
  EXPECT_EQ(MeasureDeath(options).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace shoal::sim
