// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <cstdlib>
#include <string>

#include "coordinator/sim/world.h"
#include "gtest/gtest.h"
#include "spdlog/spdlog.h"

namespace shoal::sim {
namespace {

TEST(Sim, One) {
  spdlog::set_level(spdlog::level::off);
  const uint64_t first = std::strtoull(std::getenv("FIRST"), nullptr, 10);
  const uint64_t last = std::strtoull(std::getenv("LAST"), nullptr, 10);
  WorldCounts sum;
  double secs = 0;
  for (uint64_t seed = first; seed <= last; ++seed) {
    World world(seed, WorldOptions{.trace = first == last});
    world.Run();
    sum.Add(world.counts);
    secs += absl::ToDoubleSeconds(world.now()-absl::UnixEpoch());
    if (first == last) for (const auto& line : world.trace()) std::printf("%s\n", line.c_str());
    if (!world.problems.empty()) {
      std::printf("seed %d: %s\n", (int)seed, world.problems[0].c_str());
      ADD_FAILURE();
    }
    if (seed == last) { auto& c = sum; std::printf("finished %ld survived %ld failed %ld cancelled %ld rejected %ld epochs %ld deaths %ld losses %ld false %ld pauses %ld rewinds %ld replays %ld steps %ld absent %ld ahead %ld stale %ld preempt %ld hits %ld events %ld secs %f\n", c.finished,c.survived,c.failed,c.cancelled,c.rejected,c.epochs,c.deaths,c.losses,c.false_alarms,c.pauses,c.rewinds,c.replays,c.steps,c.absent_steps,c.planned_ahead,c.stale_events,c.preemptions,c.cache_hits,c.events,secs); }
    if (first == last) std::printf("events %ld steps %ld finished %ld epochs %ld end %s\n", world.counts.events, world.counts.steps, world.counts.finished, world.counts.epochs, absl::FormatDuration(world.now()-absl::UnixEpoch()).c_str());
  }
}

}  // namespace
}  // namespace shoal::sim
