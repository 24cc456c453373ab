// SPDX-License-Identifier: Apache-2.0
// Shows that the worlds of coordinator/sim find what they are made to find. Each of these programs
// is built with one bug planted (mutations/*.patch, applied to a copy of the source at build time;
// a patch that no longer applies fails the build) and must see some seed of the first 2,000 fail. A
// bug may also trip a check of the code itself, or make it hang: so worlds run in child processes.
// What an invariant finds must be found again in the same way, with the same trace.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "coordinator/sim/campaign.h"
#include "gtest/gtest.h"

namespace shoal::sim {
namespace {

constexpr uint64_t kWorlds = 2000;
constexpr uint64_t kWorldsPerChild = 20;
constexpr unsigned kSecondsPerChild = 120;

// How a child ends.
constexpr int kFound = 1;
constexpr int kFoundOnce = 3;  // and not again in the same way

// Whether a child that ran these worlds found anything; `how` it did.
bool Finds(uint64_t first, uint64_t last, std::string& how) {
  int pipe_ends[2];
  if (pipe(pipe_ends) != 0) return false;
  const pid_t child = fork();
  if (child == 0) {
    alarm(kSecondsPerChild);
    if (dup2(pipe_ends[1], STDERR_FILENO) < 0) _exit(2);  // what a failed check says, and its seed
    CampaignOptions options;
    options.first = first;
    options.last = last;
    options.threads = 1;
    options.most_failures = 1;
    const CampaignResult result = RunCampaign(options);
    if (result.failures.empty()) _exit(0);
    const FailedSeed& failed = result.failures.front();
    std::string text = "seed " + std::to_string(failed.seed) + ", " + failed.problem;
    const std::vector<std::string> trace = Trace(failed.seed, {});
    const bool replays =
        trace == Trace(failed.seed, {}) &&
        std::find(trace.begin(), trace.end(), "PROBLEM " + failed.problem) != trace.end();
    if (!replays) text += ", and other than that when it is run again";
    const bool wrote = write(pipe_ends[1], text.data(), text.size()) > 0;
    _exit(!wrote ? 2 : replays ? kFound : kFoundOnce);
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
    return true;
  }
  EXPECT_NE(WEXITSTATUS(status), kFoundOnce) << how;
  return WEXITSTATUS(status) == kFound || WEXITSTATUS(status) == kFoundOnce;
}

TEST(Mutation, IsFound) {
  std::string how;
  for (uint64_t first = 1; first <= kWorlds; first += kWorldsPerChild) {
    if (!Finds(first, std::min(first + kWorldsPerChild - 1, kWorlds), how)) continue;
    std::printf("found: %s\n", how.c_str());
    return;
  }
  FAIL() << "no seed of " << kWorlds << " finds the planted bug";
}

}  // namespace
}  // namespace shoal::sim
