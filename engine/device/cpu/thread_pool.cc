// SPDX-License-Identifier: Apache-2.0
#include "engine/device/cpu/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <string>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace shoal::cpu {
namespace {

constexpr int kChunkBits = 24;
// A claim takes this fraction of a thread's share of what is left.
constexpr int64_t kRunDivisor = 4;
constexpr uint64_t kChunkMask = (uint64_t{1} << kChunkBits) - 1;

// About 50 us: longer than the serial stretches between two loops of one step, short against a time
// slice.
constexpr int kHelperSpins = 1500;
// A caller's wait for the last chunk of a helper.
constexpr int kCallerSpins = 3000;

inline void Pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

}  // namespace

int AvailableCores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
  const unsigned count = std::thread::hardware_concurrency();
  return count == 0 ? 1 : static_cast<int>(count);
}

ThreadPool::ThreadPool(int threads) {
  for (int i = 1; i < threads; ++i) {
    helpers_.emplace_back([this, i] { Help(i); });
    // At most 15 characters, or the call fails.
    pthread_setname_np(helpers_.back().native_handle(), ("shoal-cpu-" + std::to_string(i)).c_str());
  }
}

ThreadPool::~ThreadPool() {
  stop_.store(true);
  started_.fetch_add(1);
  started_.notify_all();
  for (std::thread& helper : helpers_) helper.join();
}

void ThreadPool::Run(int64_t items, int64_t grain, Function function, const void* context) {
  int64_t chunks = (items + grain - 1) / grain;
  if (chunks > static_cast<int64_t>(kChunkMask)) {  // coarser, so that a chunk number fits
    grain = (items + static_cast<int64_t>(kChunkMask) - 1) / static_cast<int64_t>(kChunkMask);
    chunks = (items + grain - 1) / grain;
  }
  const uint64_t generation = (ticket_.load(std::memory_order_relaxed) >> kChunkBits) + 1;
  // From here until the last of these stores nothing can be claimed: a helper that is late for the
  // previous loop and has seen any of the new values (released here, acquired there) finds that the
  // ticket it read is not there any more.
  ticket_.store(generation << kChunkBits | kChunkMask, std::memory_order_relaxed);
  function_.store(function, std::memory_order_release);
  context_.store(context, std::memory_order_release);
  items_.store(items, std::memory_order_release);
  grain_.store(grain, std::memory_order_release);
  chunks_.store(chunks, std::memory_order_release);
  done_.store(0, std::memory_order_relaxed);
  ticket_.store(generation << kChunkBits, std::memory_order_release);
  started_.fetch_add(1);  // sequentially consistent with a helper's count of
  if (sleepers_.load() > 0) started_.notify_all();  // itself before it looks again: no wake is lost

  Work(generation, 0);
  int spins = 0;
  for (uint32_t done = done_.load(std::memory_order_acquire); done < chunks;
       done = done_.load(std::memory_order_acquire)) {
    if (++spins < kCallerSpins) {
      Pause();
    } else {
      // The helper that holds the last chunk may have lost its core to another process.
      done_.wait(done, std::memory_order_acquire);
    }
  }
}

void ThreadPool::Work(uint64_t generation, int thread) {
  for (;;) {
    uint64_t ticket = ticket_.load(std::memory_order_acquire);
    const auto chunk = static_cast<int64_t>(ticket & kChunkMask);
    const Function function = function_.load(std::memory_order_acquire);
    const void* context = context_.load(std::memory_order_acquire);
    const int64_t items = items_.load(std::memory_order_acquire);
    const int64_t grain = grain_.load(std::memory_order_acquire);
    const int64_t chunks = chunks_.load(std::memory_order_acquire);
    if (ticket >> kChunkBits != generation || chunk >= chunks) return;
    // Long runs first, since neighbours in memory are read faster; single chunks at the end, so
    // that all threads finish together.
    const int64_t claimed = std::max<int64_t>(1, (chunks - chunk) / (kRunDivisor * threads()));
    // Success proves that all was read from the loop of this ticket: writing the next one begins by
    // changing it, and cannot begin before these chunks have run.
    if (!ticket_.compare_exchange_weak(ticket, ticket + static_cast<uint64_t>(claimed),
                                       std::memory_order_acq_rel)) {
      continue;
    }
    function(context, chunk * grain, std::min((chunk + claimed) * grain, items), thread);
    const auto count = static_cast<uint32_t>(claimed);
    if (done_.fetch_add(count, std::memory_order_acq_rel) + count ==
            static_cast<uint32_t>(chunks) &&
        thread != 0) {
      done_.notify_one();
    }
  }
}

void ThreadPool::Help(int thread) {
  uint32_t seen = 0;
  while (!stop_.load()) {
    int spins = 0;
    uint32_t now = started_.load();
    while (now == seen && spins++ < kHelperSpins) {
      Pause();
      now = started_.load(std::memory_order_acquire);
    }
    if (now == seen) {
      sleepers_.fetch_add(1);
      started_.wait(seen);
      sleepers_.fetch_sub(1);
      now = started_.load();
    }
    seen = now;
    Work(ticket_.load(std::memory_order_acquire) >> kChunkBits, thread);
  }
}

}  // namespace shoal::cpu
