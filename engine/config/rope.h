// SPDX-License-Identifier: Apache-2.0
// Rotary position embedding with YaRN: frequencies and tables. Everything is computed in double and
// rounded to f32 once, because at position 160,000 a frequency rounded to f32 is off by 0.01 rad.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/config/model_config.h"

namespace shoal {

// Frequencies [dim/2], radians per position (arXiv:2309.00071 sec. 3.2 where `rope.yarn` is set).
std::vector<double> RopeFrequencies(const RopeConfig& rope);

// YaRN's attention magnitude: 0.1 * mscale * ln(factor) + 1; 1 when factor <= 1.
double YarnMscale(double factor, double mscale);

// cos and sin of position * frequency, times RopeConfig::CosSinScale(); each [positions, dim/2]
// f32.
struct RopeTables {
  std::vector<float> cos;
  std::vector<float> sin;
};
RopeTables MakeRopeTables(const RopeConfig& rope, int64_t positions);

}  // namespace shoal
