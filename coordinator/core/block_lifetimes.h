// SPDX-License-Identifier: Apache-2.0
// How long cache blocks kept what was written into them: short lives tell an operator that the
// cache is too small to be of use to the next request.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "absl/time/time.h"

namespace shoal {

struct BlockLifetimes {
  // Upper bounds of the classes, in seconds (vLLM's, so that dashboards agree).
  static constexpr std::array<double, 21> kBounds = {0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1,
                                                     0.2,   0.5,   1,     2,    5,    10,   20,
                                                     30,    60,    120,   300,  600,  1200, 1800};

  void Add(absl::Duration lifetime) {
    const double seconds = absl::ToDoubleSeconds(lifetime);
    size_t index = 0;
    while (index < kBounds.size() && seconds > kBounds[index]) ++index;
    ++counts[index];
    sum_s += seconds;
  }

  absl::Time now;                                    // of the event that is being folded
  std::array<int64_t, kBounds.size() + 1> counts{};  // by class; the last is beyond all bounds
  double sum_s = 0;
};

}  // namespace shoal
