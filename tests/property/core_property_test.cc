// SPDX-License-Identifier: Apache-2.0
// Shows that the coordinator's core keeps its promises whatever happens: 2,000 seeded worlds
// (core_world.h) of clients, workers, faults and nonsense around the real core. After every event: no
// token lost, doubled or changed, none said before all members of one epoch have computed it, no cache
// row lost or foreign, no block owned twice, every expert where the epoch's map says, stale messages
// without effect, no request failed by a worker's death. At the end: every request ended exactly once,
// all ranks are back, no block is left in use, an idle cluster is silent.
// SHOAL_SEED=n runs world n alone, SHOAL_WORLDS=n the first n.
#include <cstdio>
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
  if (const char* worlds = std::getenv("SHOAL_WORLDS")) {
    last = std::strtoull(worlds, nullptr, 10);
  }
  if (const char* seed = std::getenv("SHOAL_SEED")) {
    first = last = std::strtoull(seed, nullptr, 10);
  }
  WorldCounts sum;
  for (uint64_t seed = first; seed <= last; ++seed) {
    World world(seed);
    world.Run();
    ASSERT_TRUE(world.problems.empty()) << "world of SHOAL_SEED=" << seed << Told(world);
    sum.Add(world.counts);
  }
  const auto print = [](const char* what, int64_t count) {
    std::printf("%10lld %s\n", static_cast<long long>(count), what);
  };
  print("worlds", static_cast<int64_t>(last - first + 1));
  print("choices finished", sum.finished);
  print("of them after an epoch had ended", sum.survived_texts);
  print("choices cancelled", sum.cancelled);
  print("choices failed (deadline, too large)", sum.failed);
  print("requests rejected", sum.rejected);
  print("epochs after the first", sum.epochs);
  print("workers lost", sum.losses);
  print("workers that came back alive", sum.returns);
  print("pauses", sum.pauses);
  print("sequences rewound", sum.rewinds);
  print("steps", sum.steps);
  print("steps without some rank", sum.absent_steps);
  print("steps planned ahead", sum.planned_ahead);
  print("plans without rows", sum.idle_plans);
  print("stale events", sum.stale_events);
  print("preemptions", sum.preemptions);
  print("tokens from the prefix cache", sum.cache_hits);
  if (first == last) return;
  // The worlds must have had in them what this test is about.
  EXPECT_GT(sum.finished, 20'000);
  EXPECT_GT(sum.survived_texts, 5'000);
  EXPECT_GT(sum.cancelled, 1'000);
  EXPECT_GT(sum.epochs, 5'000);
  EXPECT_GT(sum.losses, 5'000);
  EXPECT_GT(sum.returns, 1'000);
  EXPECT_GT(sum.pauses, 500);
  EXPECT_GT(sum.rewinds, 2'000);
  EXPECT_GT(sum.absent_steps, 2'000);
  EXPECT_GT(sum.stale_events, 10'000);
  EXPECT_GT(sum.planned_ahead, 20'000);
  EXPECT_GT(sum.idle_plans, 1'000);
  EXPECT_GT(sum.preemptions, 1'000);
  EXPECT_GT(sum.cache_hits, 10'000);
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
