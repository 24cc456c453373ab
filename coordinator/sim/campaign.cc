// SPDX-License-Identifier: Apache-2.0
#include "coordinator/sim/campaign.h"

#include <algorithm>
#include <atomic>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "spdlog/spdlog.h"

namespace shoal::sim {
namespace {

constexpr int64_t kProgressEvery = 100;

}  // namespace

CampaignResult RunCampaign(const CampaignOptions& options) {
  spdlog::set_level(spdlog::level::off);
  int threads = options.threads;
  if (threads <= 0) threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  std::atomic<uint64_t> next{options.first};
  absl::Mutex mutex;
  CampaignResult result;
  const auto work = [&] {
    while (true) {
      const uint64_t seed = next.fetch_add(1);
      if (seed > options.last) return;
      World world(seed, options.world);
      world.Run();
      absl::MutexLock lock(&mutex);
      ++result.worlds;
      result.counts.Add(world.counts);
      if (!world.problems.empty()) {
        result.failures.push_back({seed, world.problems.front()});
        if (static_cast<int64_t>(result.failures.size()) == options.most_failures) {
          next = options.last + 1;
        }
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
  WorldOptions traced = options;
  traced.trace = true;
  World world(seed, traced);
  world.Run();
  std::vector<std::string> lines(world.trace().begin(), world.trace().end());
  for (const std::string& problem : world.problems) lines.push_back("PROBLEM " + problem);
  return lines;
}

}  // namespace shoal::sim
