// SPDX-License-Identifier: Apache-2.0
// How a sublayer reads from and writes to the stream that runs through all layers: here, plainly.
#pragma once

#include "engine/model/step_context.h"

namespace shoal {

struct ResidualState {
  TensorView x;  // [T, D] f32
};

// x + sublayer(x): V2, V3, R1, V3.1.
class AddResidual {
 public:
  explicit AddResidual(const AddResidualConfig&) {}
  TensorView Read(StepContext&, const ResidualState& state) const { return state.x; }
  void Write(StepContext& step, TensorView y, ResidualState& state) const {
    step.kernels.Add(step.stream, state.x, y);
  }
};

}  // namespace shoal
