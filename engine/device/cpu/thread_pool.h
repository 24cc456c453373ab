// SPDX-License-Identifier: Apache-2.0
// The backend's threads: a parallel loop whose caller works too, whose helpers spin briefly between
// loops and then sleep, and which allocates nothing and takes no lock (atomics and futexes only).
//
// Cores may be shared with other processes, so nothing waits for a helper to show up: a loop is
// finished when all its items are, and an item is claimed by one atomic operation. A helper that is
// late finds nothing to do.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

namespace shoal::cpu {

class ThreadPool {
 public:
  // `threads` counts the caller: threads - 1 helpers, named "shoal-cpu-1" and so on.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(helpers_.size()) + 1; }

  // body(begin, end, thread) for disjoint ranges that cover [0, items), each of `grain` items but
  // the last; thread is 0 for the caller. Returns when all are done. One loop at a time; body must
  // not throw or start another.
  template <typename Body>
  void For(int64_t items, int64_t grain, const Body& body) {
    if (items <= 0) return;
    if (items <= grain || helpers_.empty()) {
      body(int64_t{0}, items, 0);
      return;
    }
    Run(
        items, grain,
        [](const void* context, int64_t begin, int64_t end, int thread) {
          (*static_cast<const Body*>(context))(begin, end, thread);
        },
        &body);
  }

 private:
  using Function = void (*)(const void* context, int64_t begin, int64_t end, int thread);

  void Run(int64_t items, int64_t grain, Function function, const void* context);
  void Help(int thread);
  // Claims and runs chunks of the loop `generation` until none is left.
  void Work(uint64_t generation, int thread);

  // The loop in progress. A helper may read these while the next loop is being written; it then
  // fails to claim, because the ticket is closed before the first of them changes.
  std::atomic<Function> function_{nullptr};
  std::atomic<const void*> context_{nullptr};
  std::atomic<int64_t> items_{0};
  std::atomic<int64_t> grain_{1};
  std::atomic<int64_t> chunks_{0};

  alignas(64) std::atomic<uint64_t> ticket_{0};  // generation << kChunkBits | next chunk to claim
  alignas(64) std::atomic<uint32_t> done_{0};    // chunks finished
  alignas(64) std::atomic<uint32_t> started_{
      0};  // changes with every loop: what sleeping helpers watch
  std::atomic<int32_t> sleepers_{0};
  std::atomic<bool> stop_{false};

  std::vector<std::thread> helpers_;
};

// Cores this process may run on.
int AvailableCores();

}  // namespace shoal::cpu
