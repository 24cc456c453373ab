// SPDX-License-Identifier: Apache-2.0
// Shows that setting the system's clock neither moves SteadyNow nor shortens or prolongs a wait.
// This program's own clock_gettime stands before the C library's, so that its time of day can be
// set. It begins two hours ahead of the kernel's; setting it right is a step back that the kernel,
// by whose time of day Abseil's waits sleep, agrees with.
#include "engine/base/steady_clock.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <ctime>
#include <thread>

#include "gtest/gtest.h"

namespace {

constexpr int64_t kAheadAtStart_s = 7200;
std::atomic<int64_t> ahead_s{kAheadAtStart_s};

}  // namespace

extern "C" int clock_gettime(clockid_t clock, timespec* time) noexcept {
  const int result = static_cast<int>(syscall(SYS_clock_gettime, clock, time));
  if (result == 0 && clock == CLOCK_REALTIME) time->tv_sec += ahead_s;
  return result;
}

namespace shoal {
namespace {

const absl::Time kStart = SteadyNow();  // from the clock that is two hours ahead

constexpr absl::Duration kWait = absl::Milliseconds(50);
constexpr absl::Duration kSoon = absl::Seconds(10);  // on however busy a machine

class SteadyClock : public testing::Test {
 protected:
  ~SteadyClock() override { ahead_s = kAheadAtStart_s; }
};

TEST_F(SteadyClock, BeginsWithTheTimeOfDay) {
  EXPECT_GE(absl::Now(), kStart - absl::Seconds(1));  // absl reads clocks of its own
  EXPECT_LT(absl::Now(), kStart + absl::Minutes(1));
}

TEST_F(SteadyClock, IsNotMovedWhenTheClockIsSet) {
  for (const int64_t ahead : {-7200, 14400, 0}) {
    const absl::Time before = SteadyNow();
    const absl::Time day = absl::Now();
    ahead_s += ahead;
    EXPECT_LT(absl::AbsDuration(absl::Now() - day - absl::Seconds(ahead)), kSoon);
    EXPECT_GE(SteadyNow(), before);
    EXPECT_LT(SteadyNow(), before + kSoon);
  }
}

TEST_F(SteadyClock, WaitsAsLongAsItWasToldWhateverTheClockSays) {
  absl::Mutex mutex;
  SteadyCondVar changed;
  for (const int64_t ahead : {int64_t{0}, kAheadAtStart_s, 2 * kAheadAtStart_s}) {
    ahead_s = ahead;
    const absl::Time begin = SteadyNow();
    absl::MutexLock lock(&mutex);
    EXPECT_FALSE(changed.WaitUntil(mutex, begin + kWait, [] { return false; }));
    EXPECT_GE(SteadyNow() - begin, kWait);
    EXPECT_LT(SteadyNow() - begin, kSoon);
  }
}

TEST_F(SteadyClock, WaitsEndWhenToldOfWhatTheyWaitFor) {
  absl::Mutex mutex;
  SteadyCondVar changed;
  int stage = 0;
  std::thread other([&] {
    for (int i = 0; i < 3; ++i) {
      absl::SleepFor(absl::Milliseconds(5));
      absl::MutexLock lock(&mutex);
      ++stage;
      changed.NotifyAll();
    }
  });
  {
    absl::MutexLock lock(&mutex);
    EXPECT_TRUE(changed.WaitUntil(mutex, absl::InfiniteFuture(), [&] { return stage == 3; }));
    mutex.AssertHeld();
  }
  other.join();
}

TEST_F(SteadyClock, WhatHoldsAlreadyIsNotWaitedFor) {
  absl::Mutex mutex;
  SteadyCondVar changed;
  absl::MutexLock lock(&mutex);
  EXPECT_TRUE(changed.WaitUntil(mutex, absl::InfinitePast(), [] { return true; }));
  EXPECT_FALSE(changed.WaitUntil(mutex, absl::InfinitePast(), [] { return false; }));
}

}  // namespace
}  // namespace shoal
