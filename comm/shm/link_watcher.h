// SPDX-License-Identifier: Apache-2.0
// A thread that watches the sockets to all peers for their end: the kernel closes a socket with its
// process, so a killed peer is noticed within a millisecond, however it died.
#pragma once

#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "comm/shm/unique_fd.h"
#include "engine/base/ids.h"

namespace shoal {

struct Link {
  RankId peer;
  UniqueFd socket;
};

class LinkWatcher {
 public:
  // `lost` is called once for a link that ends while it is watched, in the watcher's thread. `wake`
  // is a non-blocking eventfd.
  LinkWatcher(UniqueFd wake, std::function<void(RankId)> lost);
  ~LinkWatcher();

  // Watches `links` instead of those so far.
  void Watch(std::vector<Link> links);
  // Stops watching and gives the links back: after it returns, `lost` is not called for them any
  // more.
  std::vector<Link> Take();

 private:
  void Run();

  std::function<void(RankId)> lost_;
  UniqueFd wake_;  // written when the set of links has changed
  absl::Mutex mutex_;
  std::vector<Link> links_ ABSL_GUARDED_BY(mutex_);
  uint64_t generation_ ABSL_GUARDED_BY(mutex_) = 0;  // counts changes of links_
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace shoal
