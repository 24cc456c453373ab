// SPDX-License-Identifier: Apache-2.0
// Shows that no request is lost and no token changed whatever goes wrong: 2,000 seeded worlds
// (coordinator/sim) of clients, the real core, real workers and faults, with all invariants checked after
// every event. A failure prints its seed and the end of its trace. SHOAL_SEED=n runs world n alone.
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
  print("choices failed (deadline, too large)", sum.failed);
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

TEST(Sim, TheLastSeedThereIsEndsACampaign) {
  CampaignOptions options;
  options.first = UINT64_MAX - 2;
  options.last = UINT64_MAX;
  options.threads = 4;
  EXPECT_EQ(RunCampaign(options).worlds, 3);
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

}  // namespace
}  // namespace shoal::sim
