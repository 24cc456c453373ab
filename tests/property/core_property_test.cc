// SPDX-License-Identifier: Apache-2.0
// Shows that the coordinator's core keeps its promises whatever happens: 2,000 seeded worlds
// (core_world.h) of clients, workers, faults and nonsense around the real core. After every event:
// no cache row lost or foreign, no block owned twice, limits of rows kept, at most two steps in
// flight, emissions in order and equal to what the request says when computed alone. At the end:
// every request ended exactly once, no block is left in use, an idle cluster is silent.
// SHOAL_SEED=n runs world n alone.
#include <cstdlib>
#include <string>

#include "gtest/gtest.h"
#include "tests/property/core_world.h"

namespace shoal::testing {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr uint64_t kWorlds = 300;  // each costs some twenty times as much
#else
constexpr uint64_t kWorlds = 2000;
#endif

std::string Told(const World& world) {
  std::string all;
  for (const std::string& problem : world.problems) all += "\n  " + problem;
  return all;
}

TEST(CoreProperty, AnyWorldComesToAGoodEnd) {
  uint64_t first = 1;
  uint64_t last = kWorlds;
  if (const char* seed = std::getenv("SHOAL_SEED")) first = last = std::strtoull(seed, nullptr, 10);
  WorldCounts sum;
  for (uint64_t seed = first; seed <= last; ++seed) {
    World world(seed);
    world.Run();
    ASSERT_TRUE(world.problems.empty()) << "world of SHOAL_SEED=" << seed << Told(world);
    sum.finished += world.counts.finished;
    sum.failed += world.counts.failed;
    sum.rejected += world.counts.rejected;
    sum.cancelled += world.counts.cancelled;
    sum.faults += world.counts.faults;
    sum.replayed_texts += world.counts.replayed_texts;
    sum.idle_plans += world.counts.idle_plans;
    sum.planned_ahead += world.counts.planned_ahead;
    sum.preemptions += world.counts.preemptions;
    sum.cache_hits += world.counts.cache_hits;
    sum.steps += world.counts.steps;
  }
  std::printf(
      "%llu worlds: %lld choices finished, %lld cancelled, %lld failed, %lld rejected; %lld steps, "
      "%lld planned ahead, %lld plans without rows; %lld preemptions, %lld tokens from the prefix "
      "cache; %lld faults, %lld choices finished across one\n",
      static_cast<unsigned long long>(last - first + 1), static_cast<long long>(sum.finished),
      static_cast<long long>(sum.cancelled), static_cast<long long>(sum.failed),
      static_cast<long long>(sum.rejected), static_cast<long long>(sum.steps),
      static_cast<long long>(sum.planned_ahead), static_cast<long long>(sum.idle_plans),
      static_cast<long long>(sum.preemptions), static_cast<long long>(sum.cache_hits),
      static_cast<long long>(sum.faults), static_cast<long long>(sum.replayed_texts));
  if (first == last) return;
  // The worlds must have had in them what this test is about.
  const auto worlds = static_cast<int64_t>(kWorlds);
  EXPECT_GT(sum.finished, 20 * worlds);
  EXPECT_GT(sum.cancelled, worlds);
  EXPECT_GT(sum.failed, worlds);
  EXPECT_GT(sum.planned_ahead, 50 * worlds);
  EXPECT_GT(sum.idle_plans, 10 * worlds);
  EXPECT_GT(sum.preemptions, 3 * worlds);
  EXPECT_GT(sum.cache_hits, 20 * worlds);
  EXPECT_GT(sum.faults, worlds / 2);
  EXPECT_GT(sum.replayed_texts, 3 * worlds);
}

TEST(CoreProperty, EqualEventsGiveEqualCommands) {
  for (uint64_t seed = 1; seed <= kWorlds / 10; ++seed) {
    World once(seed);
    World again(seed);
    once.Run();
    again.Run();
    ASSERT_EQ(once.transcript, again.transcript) << "world " << seed;
    ASSERT_NE(once.transcript, 0u);
  }
}

}  // namespace
}  // namespace shoal::testing
