// SPDX-License-Identifier: Apache-2.0
// Shows that a unit goes on through faults that hearts do not tell of, or only silence does: links
// and ports that are dead for a minute, engines that hang (coordinator/sim/outage.h). Tokens come
// again after a bounded pause, tries to let somebody in get rarer, nobody is evicted who is not at
// fault, and all is whole again when it heals. SHOAL_SEED=n runs seed n alone.
#include "coordinator/sim/outage.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace shoal::sim {
namespace {

constexpr size_t kLinesOfTrace = 60;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr uint64_t kSeeds = 1;
#else
constexpr uint64_t kSeeds = 5;
#endif

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* const value = std::getenv(name);
  return value == nullptr ? otherwise : std::strtoull(value, nullptr, 10);
}

class OutageTest : public ::testing::TestWithParam<int> {};

TEST_P(OutageTest, IsSurvived) {
  const auto outage = static_cast<Outage>(GetParam());
  const uint64_t one = FromEnvironment("SHOAL_SEED", 0);
  const uint64_t last = one > 0 ? one : FromEnvironment("SHOAL_SEEDS", kSeeds);
  for (uint64_t seed = one > 0 ? one : 1; seed <= last; ++seed) {
    const std::string problem = RunOutage(seed, outage);
    if (problem.empty()) continue;
    std::vector<std::string> trace;
    RunOutage(seed, outage, &trace);
    std::string text;
    for (size_t i = trace.size() - std::min(trace.size(), kLinesOfTrace); i < trace.size(); ++i) {
      text += "\n  " + trace[i];
    }
    ADD_FAILURE() << OutageName(outage) << ", seed " << seed << ": " << problem << text;
  }
}

INSTANTIATE_TEST_SUITE_P(, OutageTest, ::testing::Range(0, kOutages));

}  // namespace
}  // namespace shoal::sim
