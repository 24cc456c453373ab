// SPDX-License-Identifier: Apache-2.0
// Shows that the worlds of coordinator/sim find what they are made to find. Each of these programs
// is built with one bug planted (mutations/*.patch, applied to a copy of the source at build time;
// a patch that no longer applies fails the build) and must see some seed of the first 2,000 fail,
// or an outage not be survived. A bug may also trip a check of the code itself: so worlds run in
// child processes. What an invariant finds must be found again in the same way, with the same
// trace.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "coordinator/sim/campaign.h"
#include "coordinator/sim/outage.h"
#include "gtest/gtest.h"

namespace shoal::sim {
namespace {

constexpr uint64_t kWorlds = 2000;
constexpr uint64_t kWorldsPerChild = 20;
constexpr uint64_t kSeedsOfOutages = 5;
// That a machine was slow says nothing of the bug: worlds that have no end have a name for it.
constexpr unsigned kSecondsPerChild = 300;

// How a child ends.
constexpr int kFound = 1;
constexpr int kFoundOnce = 3;  // and not again in the same way

struct Finding {
  std::string what;  // empty: nothing
  bool replays = true;
};

Finding SearchWorlds(uint64_t first, uint64_t last) {
  CampaignOptions options;
  options.first = first;
  options.last = last;
  options.threads = 1;
  options.most_failures = 1;
  const CampaignResult result = RunCampaign(options);
  if (result.failures.empty()) return {};
  const FailedSeed& failed = result.failures.front();
  const std::vector<std::string> trace = Trace(failed.seed, {});
  return {"seed " + std::to_string(failed.seed) + ", " + failed.problem,
          trace == Trace(failed.seed, {}) &&
              std::find(trace.begin(), trace.end(), "PROBLEM " + failed.problem) != trace.end()};
}

Finding SearchOutages(uint64_t seed) {
  for (int i = 0; i < kOutages; ++i) {
    const auto outage = static_cast<Outage>(i);
    const std::string problem = RunOutage(seed, outage);
    if (problem.empty()) continue;
    return {std::string(OutageName(outage)) + ", seed " + std::to_string(seed) + ", " + problem,
            problem == RunOutage(seed, outage)};
  }
  return {};
}

// Whether `search` finds anything, in a child of its own; `how` it did.
bool Finds(const std::function<Finding()>& search, std::string& how) {
  int pipe_ends[2];
  if (pipe(pipe_ends) != 0) return false;
  const pid_t child = fork();
  if (child == 0) {
    alarm(kSecondsPerChild);
    if (dup2(pipe_ends[1], STDERR_FILENO) < 0) _exit(2);  // what a failed check says, and its seed
    Finding found = search();
    if (found.what.empty()) _exit(0);
    if (!found.replays) found.what += ", and other than that when it is run again";
    const bool wrote = write(pipe_ends[1], found.what.data(), found.what.size()) > 0;
    _exit(!wrote ? 2 : found.replays ? kFound : kFoundOnce);
  }
  close(pipe_ends[1]);
  char buffer[512];
  for (ssize_t got; (got = read(pipe_ends[0], buffer, sizeof(buffer))) > 0;) {
    how.append(buffer, static_cast<size_t>(got));
  }
  close(pipe_ends[0]);
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child) return false;
  if (WIFSIGNALED(status)) {
    how += "signal " + std::to_string(WTERMSIG(status));
    return WTERMSIG(status) != SIGALRM;
  }
  EXPECT_NE(WEXITSTATUS(status), kFoundOnce) << how;
  return WEXITSTATUS(status) == kFound || WEXITSTATUS(status) == kFoundOnce;
}

TEST(Mutation, IsFound) {
  std::string how;
  bool found = false;
  for (uint64_t first = 1; !found && first <= kWorlds; first += kWorldsPerChild) {
    const uint64_t last = std::min(first + kWorldsPerChild - 1, kWorlds);
    found = Finds([&] { return SearchWorlds(first, last); }, how);
    const uint64_t seed = last / kWorldsPerChild;
    if (found || seed > kSeedsOfOutages) continue;
    found = Finds([&] { return SearchOutages(seed); }, how);
  }
  EXPECT_TRUE(found) << "no seed of " << kWorlds << " and no outage finds the planted bug: " << how;
  if (found) std::printf("found: %s\n", how.c_str());
}

}  // namespace
}  // namespace shoal::sim
