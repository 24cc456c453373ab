// SPDX-License-Identifier: Apache-2.0
// Who waits for whom: smoothed seconds per step by source and destination rank, for each phase of the
// exchange, from what ranks report with every step. Names the slowest rank by a stated rule.
#pragma once

#include <vector>

#include "absl/time/time.h"
#include "coordinator/core/cluster_snapshot.h"
#include "coordinator/core/events.h"

namespace shoal {

class WaitingMatrix {
 public:
  // What is reported beyond `longest` counts as that: no step takes longer.
  WaitingMatrix(int ranks, absl::Duration longest);

  // What `destination` reported of one step. Reports of another shape are ignored.
  void Add(RankId destination, const StepDone& report);
  // Another worker has the rank, or none: what was said of it and by it says nothing any more.
  void Forget(RankId rank);

  WaitingSnapshot Snapshot() const;

 private:
  static constexpr int kMaxShown = 64;
  static constexpr float kNewest = 1.0f / 16;  // weight of the newest step

  size_t At(int source, int destination) const {
    return static_cast<size_t>(destination) * static_cast<size_t>(ranks_) +
           static_cast<size_t>(source);
  }
  float Seconds(absl::Duration waited) const;
  void Smooth(float& value, float newest, bool first) const;

  const int ranks_;
  const absl::Duration longest_;
  // By destination, then source: what one report changes lies together. Empty until the first one.
  std::vector<float> dispatch_;
  std::vector<float> combine_;
  std::vector<float> step_;      // by destination: seconds per step, computing and waiting
  std::vector<bool> reported_;   // by destination
};

}  // namespace shoal
