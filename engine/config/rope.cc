// SPDX-License-Identifier: Apache-2.0
#include "engine/config/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace shoal {

double YarnMscale(double factor, double mscale) {
  return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

std::vector<double> RopeFrequencies(const RopeConfig& rope) {
  const int half = rope.dim / 2;
  std::vector<double> frequencies(half);
  for (int i = 0; i < half; ++i) frequencies[i] = std::pow(rope.rope_theta, -2.0 * i / rope.dim);
  if (!rope.yarn.has_value()) return frequencies;

  const YarnConfig& yarn = *rope.yarn;
  // The dimension whose wave turns `rotations` times within the original context.
  const auto dimension = [&](double rotations) {
    const double original = static_cast<double>(yarn.original_max_position_embeddings);
    return rope.dim * std::log(original / (2 * std::numbers::pi * rotations)) /
           (2 * std::log(rope.rope_theta));
  };
  const double low = std::max(std::floor(dimension(yarn.beta_fast)), 0.0);
  double high = std::min(std::ceil(dimension(yarn.beta_slow)), rope.dim - 1.0);
  if (low == high) high += 0.001;
  for (int i = 0; i < half; ++i) {
    // 0: fast waves, kept; 1: slow waves, interpolated by `factor`.
    const double ramp = std::clamp((i - low) / (high - low), 0.0, 1.0);
    frequencies[i] = frequencies[i] / yarn.factor * ramp + frequencies[i] * (1 - ramp);
  }
  return frequencies;
}

RopeTables MakeRopeTables(const RopeConfig& rope, int64_t positions) {
  const std::vector<double> frequencies = RopeFrequencies(rope);
  const double scale = rope.CosSinScale();
  RopeTables tables;
  tables.cos.reserve(positions * frequencies.size());
  tables.sin.reserve(positions * frequencies.size());
  for (int64_t position = 0; position < positions; ++position) {
    for (double frequency : frequencies) {
      const double angle = static_cast<double>(position) * frequency;
      tables.cos.push_back(static_cast<float>(std::cos(angle) * scale));
      tables.sin.push_back(static_cast<float>(std::sin(angle) * scale));
    }
  }
  return tables;
}

std::vector<float> RopeConfig::InvFreq() const {
  const std::vector<double> frequencies = RopeFrequencies(*this);
  return {frequencies.begin(), frequencies.end()};
}

float RopeConfig::CosSinScale() const {
  if (!yarn.has_value()) return 1.0f;
  return static_cast<float>(YarnMscale(yarn->factor, yarn->mscale) /
                            YarnMscale(yarn->factor, yarn->mscale_all_dim));
}

float MlaConfig::SoftmaxScale() const {
  double scale = 1.0 / std::sqrt(static_cast<double>(qk_nope_head_dim + qk_rope_head_dim));
  if (rope.yarn.has_value()) {
    const double mscale = YarnMscale(rope.yarn->factor, rope.yarn->mscale_all_dim);
    scale *= mscale * mscale;
  }
  return static_cast<float>(scale);
}

}  // namespace shoal
