// SPDX-License-Identifier: Apache-2.0
// What every part of the model needs to know of the step in progress: which rows there are and
// where they stand, on what to compute, with whom to exchange.
#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "engine/cache/kv_cache.h"
#include "engine/config/expert_targets.h"
#include "engine/device/kernels.h"
#include "engine/model/expert_scratch.h"
#include "engine/model/model.h"
#include "engine/parallel/exchange.h"
#include "engine/tensor/arena.h"

namespace shoal {

struct StepContext {
  Kernels& kernels;
  Stream& stream;
  Arena& arena;  // each part takes what it needs; the decoder layer takes all of it back
  Exchange& exchange;
  const ExpertTargets& targets;
  const KvCache& cache;
  ExpertScratch& experts;  // host side of the mixture layers
  StepTag tag;

  absl::Span<const int32_t> positions;  // [T] within their sequences
  absl::Span<const int64_t> slots;      // [T] rows of the cache pools
  absl::Span<const AttendSequence> sequences;
  int64_t rows = 0;  // T
};

// h = w * x / rms(x), in f32: [T, D] f32 from the step's arena.
inline TensorView RmsNorm(StepContext& step, TensorView x, TensorView weight, float eps) {
  const TensorView y = step.arena.New(DType::kF32, {x.dim(0), x.dim(1)});
  step.kernels.RmsNorm(step.stream, x, weight, eps, y);
  return y;
}

}  // namespace shoal
