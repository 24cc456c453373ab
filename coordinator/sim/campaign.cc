// SPDX-License-Identifier: Apache-2.0
#include "coordinator/sim/campaign.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <string_view>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "spdlog/spdlog.h"

namespace shoal::sim {
namespace {

constexpr int64_t kProgressEvery = 100;

// The world that this thread runs, for who has to find the one that brought the process down.
thread_local uint64_t running_seed = 0;

void NameSeed(int signal) {
  constexpr std::string_view kSays = "the world of seed ";
  std::array<char, 64> line;
  char* end = std::copy(kSays.begin(), kSays.end(), line.begin());
  end = std::to_chars(end, line.data() + line.size(), running_seed).ptr;
  constexpr std::string_view kEnds = " ended the process\n";
  end = std::copy(kEnds.begin(), kEnds.end(), end);
  (void)!write(STDERR_FILENO, line.data(), static_cast<size_t>(end - line.data()));
  raise(signal);  // its handler is the default one again
}

// Where nobody else (a sanitizer) reports it.
void NameSeedsOfCrashes() {
  for (const int signal : {SIGABRT, SIGSEGV, SIGBUS, SIGFPE}) {
    struct sigaction before;
    if (sigaction(signal, nullptr, &before) != 0 || before.sa_handler != SIG_DFL) continue;
    struct sigaction action = {};
    action.sa_handler = NameSeed;
    action.sa_flags = static_cast<int>(SA_RESETHAND);
    sigaction(signal, &action, nullptr);
  }
}

}  // namespace

CampaignResult RunCampaign(const CampaignOptions& options) {
  spdlog::set_level(spdlog::level::off);
  NameSeedsOfCrashes();
  int threads = options.threads;
  if (threads <= 0) threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  std::atomic<uint64_t> begun = 0;
  std::atomic<bool> over = false;
  absl::Mutex mutex;
  CampaignResult result;
  const auto work = [&] {
    while (!over) {
      const uint64_t index = begun.fetch_add(1);
      if (index > options.last - options.first) return;
      const uint64_t seed = options.first + index;
      running_seed = seed;
      World world(seed, options.world);
      world.Run();
      absl::MutexLock lock(&mutex);
      ++result.worlds;
      result.counts.Add(world.counts);
      if (!world.problems.empty()) {
        result.failures.push_back({seed, world.problems.front()});
        if (static_cast<int64_t>(result.failures.size()) == options.most_failures) over = true;
      }
      if (options.progress && result.worlds % kProgressEvery == 0) {
        options.progress(result.worlds, static_cast<int64_t>(result.failures.size()));
      }
    }
  };
  std::vector<std::thread> pool;
  for (int i = 1; i < threads; ++i) pool.emplace_back(work);
  work();
  for (std::thread& thread : pool) thread.join();
  std::sort(result.failures.begin(), result.failures.end(),
            [](const FailedSeed& a, const FailedSeed& b) { return a.seed < b.seed; });
  return result;
}

std::vector<std::string> Trace(uint64_t seed, const WorldOptions& options) {
  spdlog::set_level(spdlog::level::off);
  NameSeedsOfCrashes();
  running_seed = seed;
  WorldOptions traced = options;
  traced.trace = true;
  World world(seed, traced);
  world.Run();
  std::vector<std::string> lines(world.trace().begin(), world.trace().end());
  for (const std::string& problem : world.problems) lines.push_back("PROBLEM " + problem);
  return lines;
}

}  // namespace shoal::sim
