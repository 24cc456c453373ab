// SPDX-License-Identifier: Apache-2.0
#include "engine/model/feed_forward.h"

#include <utility>

#include "engine/base/status_macros.h"

namespace shoal {

absl::StatusOr<FfnWeights> LoadFfn(WeightLoader& loader, const std::string& prefix,
                                   const LinearOptions& options) {
  FfnWeights ffn;
  SHOAL_ASSIGN_OR_RETURN(ffn.gate, loader.Linear(prefix + "gate_proj.weight", options));
  SHOAL_ASSIGN_OR_RETURN(ffn.up, loader.Linear(prefix + "up_proj.weight", options));
  SHOAL_ASSIGN_OR_RETURN(ffn.down, loader.Linear(prefix + "down_proj.weight", options));
  return ffn;
}

void FfnForward(StepContext& step, const FfnWeights& ffn, TensorView x, TensorView y) {
  const FfnWeights* const experts[] = {&ffn};
  const int32_t row_offsets[] = {0, static_cast<int32_t>(x.dim(0))};
  step.kernels.GroupedFfn(step.stream,
                          {.x = x, .experts = experts, .row_offsets = row_offsets, .y = y});
}

absl::StatusOr<DenseFfn> DenseFfn::Load(WeightLoader& loader, const std::string& prefix,
                                        const LinearOptions& options) {
  DenseFfn dense;
  SHOAL_ASSIGN_OR_RETURN(dense.weights_, LoadFfn(loader, prefix, options));
  return dense;
}

TensorView DenseFfn::Forward(StepContext& step, TensorView h) const {
  const TensorView y = step.arena.New(DType::kF32, {h.dim(0), h.dim(1)});
  FfnForward(step, weights_, h, y);
  return y;
}

}  // namespace shoal
