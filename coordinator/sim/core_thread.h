// SPDX-License-Identifier: Apache-2.0
// A thread on which the core's steps run one by one while the world waits, as they do in a coordinator: with a
// heap of its own, so that measured times do not contain the simulator's.
#pragma once

#include <time.h>

#include <functional>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace shoal::sim {

// CPU time of the calling thread.
inline absl::Duration ThreadCpu() {
  timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return absl::DurationFromTimespec(time);
}

class CoreThread {
 public:
  CoreThread() : thread_([this] { Loop(); }) {}
  ~CoreThread() {
    {
      absl::MutexLock lock(&mutex_);
      over_ = true;
    }
    thread_.join();
  }

  // Runs `work` there and waits for its end; its CPU time.
  absl::Duration Run(const std::function<void()>& work) {
    absl::MutexLock lock(&mutex_);
    work_ = &work;
    mutex_.Await(absl::Condition(
        +[](CoreThread* self) { return self->work_ == nullptr; }, this));
    return cpu_;
  }

 private:
  void Loop() {
    absl::MutexLock lock(&mutex_);
    while (true) {
      mutex_.Await(absl::Condition(
          +[](CoreThread* self) { return self->work_ != nullptr || self->over_; }, this));
      if (work_ == nullptr) return;
      const absl::Duration begin = ThreadCpu();
      (*work_)();
      cpu_ = ThreadCpu() - begin;
      work_ = nullptr;
    }
  }

  absl::Mutex mutex_;
  const std::function<void()>* work_ ABSL_GUARDED_BY(mutex_) = nullptr;
  absl::Duration cpu_ ABSL_GUARDED_BY(mutex_);
  bool over_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace shoal::sim
