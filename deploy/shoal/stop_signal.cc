// SPDX-License-Identifier: Apache-2.0
#include "deploy/shoal/stop_signal.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdint>

#include "engine/base/check.h"
#include "engine/base/steady_clock.h"

namespace shoal {

StopSignal::StopSignal() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  std::signal(SIGPIPE, SIG_IGN);  // a vanished client is an error of write, not our end
  signals_ = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  failed_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  SHOAL_CHECK(signals_ >= 0 && failed_ >= 0);
}

StopSignal::~StopSignal() {
  close(signals_);
  close(failed_);
}

void StopSignal::Fail(absl::Status why) {
  absl::MutexLock lock(&mutex_);
  if (!why_.ok()) return;
  why_ = std::move(why);
  const uint64_t one = 1;
  (void)!write(failed_, &one, sizeof(one));
}

absl::StatusOr<bool> StopSignal::Wait(absl::Time deadline) {
  while (true) {
    pollfd polled[] = {{signals_, POLLIN, 0}, {failed_, POLLIN, 0}};
    const int64_t left_ms =
        deadline == absl::InfiniteFuture()
            ? -1
            : std::clamp<int64_t>(absl::ToInt64Milliseconds(deadline - SteadyNow()) + 1, 0, 60000);
    poll(polled, 2, static_cast<int>(left_ms));
    if ((polled[1].revents & POLLIN) != 0) {
      absl::MutexLock lock(&mutex_);
      return why_;
    }
    signalfd_siginfo info;
    if (read(signals_, &info, sizeof(info)) == sizeof(info)) {
      // A second one is from somebody who does not want to wait for the drain.
      sigset_t set;
      sigemptyset(&set);
      for (const int signal : {SIGINT, SIGTERM}) {
        std::signal(signal, [](int number) { _exit(128 + number); });
        sigaddset(&set, signal);
      }
      pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
      return true;
    }
    if (SteadyNow() >= deadline) return false;
  }
}

}  // namespace shoal
