// SPDX-License-Identifier: Apache-2.0
// The virtual clock and the one queue of what is to happen. Events of equal time happen in the order in
// which they were scheduled.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "absl/time/time.h"

namespace shoal::sim {

class Timeline {
 public:
  absl::Time now() const { return absl::UnixEpoch() + absl::Nanoseconds(now_ns_); }

  void At(absl::Time time, std::function<void()> what) {
    int64_t ns = absl::ToUnixNanos(time);
    if (absl::FromUnixNanos(ns) < time) ++ns;  // never too early
    ns = std::max(ns, now_ns_);
    queue_.push_back(Entry{ns, ++serial_, std::move(what)});
    std::push_heap(queue_.begin(), queue_.end(), Later);
  }
  void After(absl::Duration delay, std::function<void()> what) { At(now() + delay, std::move(what)); }

  // Moves the clock to the next event and lets it happen. False: there is none.
  bool RunNext() {
    if (queue_.empty()) return false;
    std::pop_heap(queue_.begin(), queue_.end(), Later);
    Entry next = std::move(queue_.back());
    queue_.pop_back();
    now_ns_ = next.ns;
    ++events_;
    next.what();
    return true;
  }

  int64_t events() const { return events_; }

 private:
  struct Entry {
    int64_t ns;
    uint64_t serial;
    std::function<void()> what;
  };
  static bool Later(const Entry& a, const Entry& b) {
    return std::make_pair(a.ns, a.serial) > std::make_pair(b.ns, b.serial);
  }

  int64_t now_ns_ = 0;
  uint64_t serial_ = 0;
  int64_t events_ = 0;
  std::vector<Entry> queue_;
};

}  // namespace shoal::sim
