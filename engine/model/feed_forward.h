// SPDX-License-Identifier: Apache-2.0
// One feed-forward network, down(silu(gate x) * (up x)): a dense layer's, an expert's, the shared
// experts'.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "engine/model/step_context.h"
#include "engine/weights/loader.h"

namespace shoal {

// `prefix`: "model.layers.0.mlp." or "model.layers.3.mlp.experts.17.".
absl::StatusOr<FfnWeights> LoadFfn(WeightLoader& loader, const std::string& prefix,
                                   const LinearOptions& options);

// y = ffn(x), row by row: x [T, D] f32 or act, y [T, D] f32.
void FfnForward(StepContext& step, const FfnWeights& ffn, TensorView x, TensorView y);

// The feed-forward network of a dense layer.
class DenseFfn {
 public:
  static absl::StatusOr<DenseFfn> Load(WeightLoader& loader, const std::string& prefix,
                                       const LinearOptions& options);

  // h [T, D] f32, normalised. Returns [T, D] f32 in the step's arena.
  TensorView Forward(StepContext& step, TensorView h) const;
  void DeclareScratch(Arena& arena, int64_t rows, int64_t hidden_size) const {
    arena.New(DType::kF32, {rows, hidden_size});
  }

 private:
  FfnWeights weights_;
};

}  // namespace shoal
