// SPDX-License-Identifier: Apache-2.0
// The clock by which this process waits and gives up. Whoever sets the system's clock moves
// absl::Now, and with it every timed wait of Abseil, which sleeps by that clock; nothing here
// moves. So deadlines and what they are compared with come from SteadyNow everywhere, and absl::Now
// is for time stamps that people and clients read.
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace shoal {

// The time of day at the first call, and what the steady clock has counted since.
inline absl::Time SteadyNow() {
  const auto counted = [] {
    return absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
  };
  static const absl::Time zero = absl::Now() - counted();
  return zero + counted();
}

// What a clock on the wall shows now for a time of SteadyNow, for people.
inline absl::Time WallTime(absl::Time steady) { return steady + (absl::Now() - SteadyNow()); }

// Where threads that hold an absl::Mutex wait until something holds, or a time of SteadyNow. Unlike
// Mutex::Await it must be told of what has changed.
class SteadyCondVar {
 public:
  // After every change that may end a wait, with the waiters' mutex held: a waiter may destroy this
  // as soon as it is free.
  void NotifyAll() { changed_.notify_all(); }

  // Returns when ready(), which is called with `mutex` held, or at `deadline`; says which: the
  // former is true. Requires `mutex`, lets it go meanwhile. Allocates nothing.
  template <typename Ready>
  bool WaitUntil(absl::Mutex& mutex, absl::Time deadline,
                 Ready ready) ABSL_NO_THREAD_SAFETY_ANALYSIS {
    Lock lock{mutex};
    while (!ready()) {
      const absl::Duration left = deadline - SteadyNow();
      if (left <= absl::ZeroDuration()) return false;
      // Not further than the standard library's clock can count.
      const absl::Duration turn = std::min(left, absl::Hours(1));
      changed_.wait_until(lock, std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(turn));
    }
    return true;
  }

 private:
  // The mutex, as the standard library speaks to one.
  struct Lock {
    void lock() ABSL_NO_THREAD_SAFETY_ANALYSIS { mutex.Lock(); }
    void unlock() ABSL_NO_THREAD_SAFETY_ANALYSIS { mutex.Unlock(); }
    absl::Mutex& mutex;
  };

  std::condition_variable_any changed_;
};

}  // namespace shoal
