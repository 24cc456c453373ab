// SPDX-License-Identifier: Apache-2.0
// Things per second over the last full second or so, from the times it is told.
#pragma once

#include <cstdint>

#include "absl/time/time.h"

namespace shoal {

class RateMeter {
 public:
  void Add(int64_t count, absl::Time now) {
    if (now - start_ >= kWindow) {
      rate_ = Measured(now);
      start_ = now;
      count_ = 0;
    }
    count_ += count;
  }

  double PerSecond(absl::Time now) const { return now - start_ >= kWindow ? Measured(now) : rate_; }

 private:
  static constexpr absl::Duration kWindow = absl::Seconds(1);
  static constexpr absl::Duration kStale = absl::Seconds(5);  // says nothing of the present

  double Measured(absl::Time now) const {
    const absl::Duration elapsed = now - start_;
    return elapsed < kStale ? static_cast<double>(count_) / absl::ToDoubleSeconds(elapsed) : 0;
  }

  absl::Time start_ = absl::InfinitePast();
  int64_t count_ = 0;
  double rate_ = 0;
};

}  // namespace shoal
