// SPDX-License-Identifier: Apache-2.0
// A kind of attention: project, rope, append cache rows, attend, project. The only virtual class of
// the model, inherited once per kind.
#pragma once

#include "engine/model/step_context.h"

namespace shoal {

class Attention {
 public:
  virtual ~Attention() = default;
  // h [T, D] f32, normalised. Returns [T, D] f32 in the step's arena, to be added to the residual.
  virtual TensorView Forward(StepContext& step, TensorView h) const = 0;
  // Takes from `arena` what Forward would for `rows` rows.
  virtual void DeclareScratch(Arena& arena, int64_t rows) const = 0;
};

}  // namespace shoal
