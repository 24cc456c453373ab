// SPDX-License-Identifier: Apache-2.0
// When an MPI job that has served must be started again: it has lost ranks that do not come back,
// and its loss is felt (requests wait) or nobody would notice (there are none). Until then a rank
// may only stand still; all weights are loaded anew otherwise.
#pragma once

#include <atomic>

#include "absl/time/time.h"
#include "coordinator/core/cluster_snapshot.h"

namespace shoal {

class JobWatch {
 public:
  // The job is being started again: for a while its ranks are gone. Any thread.
  void Restarted() { starting_ = true; }
  // To be asked every second or so, by one thread. True, once, when the time for ranks to come back
  // is over: 6 s while requests wait, else 10 s, five minutes for ranks of a job just started, which read a
  // part of their weights before they say hello. Loading has a deadline of its own.
  bool IsBroken(const ClusterSnapshot& snapshot, absl::Time now);

 private:
  std::atomic<bool> starting_ = false;  // its ranks have not all said hello
  absl::Time broken_since_ = absl::InfiniteFuture();
};

}  // namespace shoal
