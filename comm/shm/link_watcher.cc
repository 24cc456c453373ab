// SPDX-License-Identifier: Apache-2.0
#include "comm/shm/link_watcher.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>

#include <utility>

namespace shoal {

LinkWatcher::LinkWatcher(UniqueFd wake, std::function<void(RankId)> lost)
    : lost_(std::move(lost)), wake_(std::move(wake)), thread_([this] { Run(); }) {
  pthread_setname_np(thread_.native_handle(), "shoal-shm-watch");
}

LinkWatcher::~LinkWatcher() {
  {
    absl::MutexLock lock(&mutex_);
    stop_ = true;
  }
  eventfd_write(wake_.get(), 1);
  thread_.join();
}

void LinkWatcher::Watch(std::vector<Link> links) {
  absl::MutexLock lock(&mutex_);
  links_.swap(links);
  ++generation_;
  eventfd_write(wake_.get(), 1);
}

std::vector<Link> LinkWatcher::Take() {
  absl::MutexLock lock(&mutex_);
  ++generation_;
  eventfd_write(wake_.get(), 1);
  return std::exchange(links_, {});
}

void LinkWatcher::Run() {
  std::vector<pollfd> polled;
  uint64_t seen = 0;
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      if (stop_) return;
      if (polled.empty() || generation_ != seen) {
        seen = generation_;
        polled.assign(1, {.fd = wake_.get(), .events = POLLIN, .revents = 0});
        for (const Link& link : links_)
          polled.push_back({.fd = link.socket.get(), .events = POLLIN, .revents = 0});
      }
    }
    if (poll(polled.data(), polled.size(), -1) < 0) continue;
    eventfd_t ignored;
    eventfd_read(wake_.get(), &ignored);
    absl::MutexLock lock(&mutex_);
    if (generation_ != seen) continue;  // descriptors may have been closed and reused meanwhile
    for (size_t i = 1; i < polled.size(); ++i) {
      if (polled[i].revents == 0) continue;
      // Nothing is ever sent on a link after the introduction: data is a broken peer, and as final
      // as the end.
      polled[i].fd = -1;  // poll skips it from now on
      lost_(links_[i - 1].peer);
    }
  }
}

}  // namespace shoal
