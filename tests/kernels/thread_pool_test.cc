// SPDX-License-Identifier: Apache-2.0
// Shows that the CPU backend's parallel loops run every item exactly once, with more threads than
// cores and sleeps in between.
#include "engine/device/cpu/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <random>
#include <thread>
#include <vector>

namespace shoal {
namespace {

TEST(ThreadPoolTest, RunsEveryItemOnce) {
  for (const int threads : {1, 2, 3, 8}) {
    cpu::ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    std::mt19937 random{37};
    for (int loop = 0; loop < 2000; ++loop) {
      const int64_t items = static_cast<int64_t>(random() % 50),
                    grain = 1 + static_cast<int64_t>(random() % 5);
      std::vector<std::atomic<int>> runs(items);
      std::atomic<int> wrong{0};
      pool.For(items, grain, [&](int64_t begin, int64_t end, int thread) {
        if (begin >= end || end > items || thread < 0 || thread >= threads) ++wrong;
        for (int64_t i = begin; i < end; ++i) ++runs[i];
      });
      ASSERT_EQ(wrong, 0);
      for (const std::atomic<int>& count : runs) ASSERT_EQ(count, 1);
    }
  }
}

TEST(ThreadPoolTest, SleepingHelpersWake) {
  cpu::ThreadPool pool(2);
  for (int loop = 0; loop < 20; ++loop) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    // The caller's half waits for the helper's, so this ends only if the helper comes.
    std::atomic<int> arrived{0};
    pool.For(2, 1, [&](int64_t, int64_t, int) {
      ++arrived;
      while (arrived < 2) std::this_thread::yield();
    });
    ASSERT_EQ(arrived, 2);
  }
}

// A helper that is late for a loop may look at the pool while the next loop, which has more chunks,
// is being written. It must not claim any of them by the number of the loop it was late for.
TEST(ThreadPoolTest, LateHelpersFindNothingToDo) {
  cpu::ThreadPool pool(2);
  constexpr int kLoops = 1 << 20;
  std::atomic<int64_t> foreign{0};
  for (int loop = 0; loop < kLoops; ++loop) {
    const int64_t items = loop % 2 == 0 ? 2 : 64;
    int64_t counts[2] = {};  // of each thread
    std::atomic<bool> open{true};
    pool.For(items, 1, [&, items](int64_t begin, int64_t end, int thread) {
      if (!open.load(std::memory_order_relaxed) || begin >= end || end > items) ++foreign;
      counts[thread] += end - begin;
    });
    open = false;
    ASSERT_EQ(counts[0] + counts[1], items) << "loop " << loop;
    ASSERT_EQ(foreign, 0) << "loop " << loop;
  }
}

TEST(ThreadPoolTest, ChunksMayBeMany) {
  cpu::ThreadPool pool(2);
  std::atomic<int64_t> sum{0};
  const int64_t items = int64_t{1} << 26;  // more than there are chunk numbers
  pool.For(items, 1, [&](int64_t begin, int64_t end, int) { sum += end - begin; });
  EXPECT_EQ(sum, items);
}

}  // namespace
}  // namespace shoal
