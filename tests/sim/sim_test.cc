// SPDX-License-Identifier: Apache-2.0
// Shows that no request is lost and no token changed whatever goes wrong: 2,000 seeded worlds
// (coordinator/sim) of clients, the real core, real workers and faults, with all invariants checked after
// every event. A failure prints its seed and the end of its trace. SHOAL_SEED=n runs world n alone.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "coordinator/sim/campaign.h"
#include "gtest/gtest.h"

namespace shoal::sim {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr uint64_t kWorlds = 200;  // each costs some twenty times as much
#else
constexpr uint64_t kWorlds = 2000;
#endif
constexpr size_t kLinesOfTrace = 60;

std::string EndOfTrace(uint64_t seed) {
  const std::vector<std::string> lines = Trace(seed, {});
  std::string text;
  for (size_t i = lines.size() - std::min(lines.size(), kLinesOfTrace); i < lines.size(); ++i) {
    text += "\n  " + lines[i];
  }
  return text;
}

TEST(Sim, AnyWorldComesToAGoodEnd) {
  CampaignOptions options;
  options.last = kWorlds;
  if (const char* seed = std::getenv("SHOAL_SEED")) {
    options.first = options.last = std::strtoull(seed, nullptr, 10);
  }
  const CampaignResult result = RunCampaign(options);
  for (const FailedSeed& failed : result.failures) {
    ADD_FAILURE() << "seed " << failed.seed << ": " << failed.problem << EndOfTrace(failed.seed);
  }
  const WorldCounts& sum = result.counts;
  const auto print = [](const char* what, int64_t count) {
    std::printf("%10lld %s\n", static_cast<long long>(count), what);
  };
  print("worlds", result.worlds);
  print("events", sum.events);
  print("steps", sum.steps);
  print("of them without some rank", sum.absent_steps);
  print("processes killed", sum.deaths);
  print("coordinators killed", sum.restarts);
  print("outages behind beating hearts", sum.outages);
  print("workers lost", sum.losses);
  print("of them evicted alive", sum.false_alarms);
  print("epochs after the first", sum.epochs);
  print("pauses", sum.pauses);
  print("sequences rewound", sum.rewinds);
  print("sequences replayed with tokens already said", sum.replays);
  print("stale and forged events", sum.stale_events);
  print("choices finished", sum.finished);
  print("of them during a change of epoch", sum.survived);
  print("choices cancelled", sum.cancelled);
  print("choices failed (deadline, too large, no numbers)", sum.failed);
  print("requests rejected", sum.rejected);
  print("preemptions", sum.preemptions);
  print("tokens from prefix caches", sum.cache_hits);
  if (options.first == options.last) return;
  // The worlds must have had in them what this test is about.
  const auto worlds = static_cast<int64_t>(kWorlds);
  EXPECT_EQ(result.worlds, worlds);
  EXPECT_GT(sum.finished, 10 * worlds);
  EXPECT_GT(sum.survived, 5 * worlds);
  EXPECT_GT(sum.deaths, worlds);
  EXPECT_GT(sum.restarts, worlds / 20);
  EXPECT_GT(sum.outages, worlds / 2);
  EXPECT_GT(sum.false_alarms, worlds / 2);
  EXPECT_GT(sum.epochs, 2 * worlds);
  EXPECT_GT(sum.pauses, worlds / 4);
  EXPECT_GT(sum.rewinds, worlds);
  EXPECT_GT(sum.replays, worlds);
  EXPECT_GT(sum.absent_steps, 5 * worlds);
  EXPECT_GT(sum.planned_ahead, 50 * worlds);
  EXPECT_GT(sum.stale_events, 5 * worlds);
  EXPECT_GT(sum.preemptions, worlds);
  EXPECT_GT(sum.cache_hits, 10 * worlds);
}

// coordinator/sim/README.md says what each found.
TEST(Sim, SeedsThatFoundBugsFindThemNoMore) {
  for (const uint64_t seed : {69, 121, 131, 1823, 67, 294, 543, 823, 1530, 203861, 204536}) {
    World world(seed, WorldOptions{});
    world.Run();
    EXPECT_TRUE(world.problems.empty()) << "seed " << seed << ": " << world.problems.front();
  }
}

TEST(Sim, ExpertsOfAllKindsAreDrawn) {
  int grouped = 0;
  int loaded = 0;
  int cold = 0;  // experts without any load
  int few = 0;   // experts, for so many workers
  int hierarchical = 0;
  for (uint64_t seed = 1; seed <= 2000; ++seed) {
    const WorldPlan plan = DrawPlan(seed, {});
    ASSERT_TRUE(Validate(plan.core).ok()) << "seed " << seed;
    const std::vector<std::vector<float>>& load = plan.core.expert_load;
    const bool even = plan.even_hosts && plan.hosts > 1 && plan.core.workers % plan.hosts == 0;
    grouped += plan.core.n_group > 1;
    loaded += !load.empty();
    cold += !load.empty() && std::count(load[1].begin(), load[1].end(), 0.0f) > 0;
    few += plan.shape.experts < plan.core.workers;
    hierarchical += even && plan.core.n_group % plan.hosts == 0;
  }
  EXPECT_GT(grouped, 500);
  EXPECT_GT(loaded, 500);
  EXPECT_GT(cold, 200);
  EXPECT_GT(few, 20);
  EXPECT_GT(hierarchical, 30);
}

TEST(Sim, ASeedGivesTheSameWorldTwice) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    const std::vector<std::string> once = Trace(seed, {});
    ASSERT_GT(once.size(), 10u);
    ASSERT_EQ(once, Trace(seed, {})) << "seed " << seed;
  }
  // Nor does writing it down change it.
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    World silent(seed, WorldOptions{});
    World traced(seed, WorldOptions{.trace = true});
    silent.Run();
    traced.Run();
    ASSERT_EQ(silent.digest(), traced.digest());
    ASSERT_TRUE(silent.trace().empty());
  }
}

// Nobody can load in the time given for it: whoever is evicted for that has done nothing wrong.
TEST(Sim, AFailureIsTheSameTwice) {
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    WorldPlan plan = DrawPlan(seed, {});
    plan.peaceful = true;
    plan.shape.poison = false;
    plan.load_time = absl::Milliseconds(500);
    plan.core.loading_timeout = absl::Microseconds(1);
    World once(seed, plan, /*trace=*/true);
    World again(seed, plan, /*trace=*/true);
    World silent(seed, plan, /*trace=*/false);
    for (World* world : {&once, &again, &silent}) world->Run();
    ASSERT_FALSE(once.problems.empty());
    EXPECT_NE(once.problems[0].find("evicted for nothing"), std::string::npos) << once.problems[0];
    EXPECT_EQ(once.problems, again.problems);
    EXPECT_EQ(once.problems, silent.problems);
    EXPECT_EQ(once.trace(), again.trace());
    EXPECT_EQ(once.digest(), silent.digest());
  }
}

TEST(Sim, TheLastSeedIsOneToo) {
  CampaignOptions options;
  options.last = UINT64_MAX;
  options.first = options.last - 3;
  options.threads = 8;
  const CampaignResult result = RunCampaign(options);
  EXPECT_EQ(result.worlds, 4);
  EXPECT_TRUE(result.failures.empty());
}

}  // namespace
}  // namespace shoal::sim
