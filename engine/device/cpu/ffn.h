// SPDX-License-Identifier: Apache-2.0
// down(silu(gate x) * (up x)) for rows grouped by expert: one grouped product for both input
// matrices with the activation fused, one for the output.
#pragma once

#include <vector>

#include "engine/device/cpu/context.h"
#include "engine/device/cpu/linear.h"
#include "engine/device/kernels.h"

namespace shoal::cpu {

class Ffn {
 public:
  // `hidden_elements`: rows x F that may be in flight at once; more rows are taken in several
  // waves.
  absl::Status Reserve(Context& context, int64_t hidden_elements, int64_t experts,
                       bool fp8_activations);

  void Run(Context& context, const GroupedFfnParams& params);

 private:
  // Rows [begin, begin + rows) of x, all of one expert.
  struct Segment {
    const FfnWeights* expert;
    int64_t begin;
    int64_t rows;
    int64_t hidden;                // element of its first row in the hidden scratch
    int64_t row;                   // rows of the wave before it
    int64_t up_items, down_items;  // work items before it
  };

  void RunWave(Context& context, const GroupedFfnParams& params);
  void Up(Context& context, const InputRows& input, int64_t first_row);
  void Quantise(Context& context);
  void Down(Context& context, const GroupedFfnParams& params);
  const Segment& Find(int64_t item, int64_t Segment::*first) const;

  int64_t hidden_elements_ = 1 << 22;  // until Reserve says what the model needs
  std::vector<Segment> wave_;          // ends with a sentinel while a wave runs
};

}  // namespace shoal::cpu
