// SPDX-License-Identifier: Apache-2.0
#include "deploy/shoal/job_watch.h"

#include <algorithm>

#include "absl/strings/string_view.h"

namespace shoal {
namespace {

constexpr absl::Duration kTimeToReturn = absl::Seconds(10);
constexpr absl::Duration kTimeToReturnWhenMissed = absl::Seconds(6);
constexpr absl::Duration kTimeToStart = absl::Minutes(5);

bool Any(const ClusterSnapshot& snapshot, absl::string_view state) {
  return std::any_of(snapshot.workers.begin(), snapshot.workers.end(),
                     [&](const WorkerSnapshot& worker) { return worker.state == state; });
}

}  // namespace

bool JobWatch::IsBroken(const ClusterSnapshot& snapshot, absl::Time now) {
  const bool idle = snapshot.requests_running == 0 && snapshot.requests_waiting == 0;
  const bool whole = !Any(snapshot, "gone");
  if (whole) starting_ = false;
  const bool fine =
      whole ? snapshot.serving || Any(snapshot, "loading") : snapshot.serving && !idle;
  if (fine) {
    broken_since_ = absl::InfiniteFuture();
    return false;
  }
  broken_since_ = std::min(broken_since_, now);
  const bool missed = !whole && !idle;
  const absl::Duration patience = starting_ ? kTimeToStart
                                  : missed  ? kTimeToReturnWhenMissed
                                            : kTimeToReturn;
  if (now - broken_since_ < patience) return false;
  broken_since_ = absl::InfiniteFuture();
  return true;
}

}  // namespace shoal
