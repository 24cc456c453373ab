// SPDX-License-Identifier: Apache-2.0
// Many worlds, one after the other on each of several threads, and what became of them.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "coordinator/sim/auditor.h"
#include "coordinator/sim/world.h"

namespace shoal::sim {

struct FailedSeed {
  uint64_t seed = 0;
  std::string problem;  // the first one
};

struct CampaignResult {
  int64_t worlds = 0;
  WorldCounts counts;
  std::vector<FailedSeed> failures;  // ascending
};

struct CampaignOptions {
  uint64_t first = 1;
  uint64_t last = 2000;
  WorldOptions world;
  int threads = 0;  // 0: one for each core
  // Stop after so many failures; 0: never.
  int64_t most_failures = 10;
  // Told now and then how many worlds are over, and how many of them failed; from any thread, from one at
  // a time. May be null.
  std::function<void(int64_t worlds, int64_t failed)> progress;
};

// Turns the workers' logging off: they say what goes wrong, which here is everything. A failed check or a
// crash names its seed on stderr before it ends the process.
CampaignResult RunCampaign(const CampaignOptions& options);

// Runs one world and writes down what happens, one line each, the problems last.
std::vector<std::string> Trace(uint64_t seed, const WorldOptions& options);

}  // namespace shoal::sim
