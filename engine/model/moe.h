// SPDX-License-Identifier: Apache-2.0
// A mixture-of-experts layer under expert parallelism: route -> dispatch -> grouped FFN -> combine.
// A row's result is the same whatever the ranks, the placement and the rows beside it: every (row,
// expert) product goes through the same message and the same roundings, and the owner sums them in
// slot order.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/config/expert_placement.h"
#include "engine/model/feed_forward.h"
#include "engine/model/step_context.h"
#include "engine/parallel/expert_messages.h"
#include "engine/weights/loader.h"

namespace shoal {

// The message of a layer, for steps of up to max_rows rows.
ExpertMessageShape MakeMessageShape(const MoeConfig& config, int hidden_size,
                                    DType activation_dtype, int64_t max_rows);

class Moe {
 public:
  // Loads router, shared experts and those routed experts that `placement` gives to `rank`.
  // `prefix`: "model.layers.3.mlp.".
  static absl::StatusOr<Moe> Load(WeightLoader& loader, const std::string& prefix,
                                  const MoeConfig& config, int layer, int hidden_size,
                                  const ExpertPlacement& placement, RankId rank,
                                  const LinearOptions& options, DType activation_dtype,
                                  int64_t max_rows);

  // h [T, D] f32, normalised. Returns [T, D] f32 in the step's arena. Exchange faults fail the
  // step's stream.
  TensorView Forward(StepContext& step, TensorView h) const;
  void DeclareScratch(Arena& arena, int64_t rows) const { Scratch::New(*this, arena, rows); }

  bool Holds(ExpertId expert) const { return experts_[expert.value()] != nullptr; }

 private:
  struct Scratch {
    static Scratch New(const Moe& moe, Arena& arena, int64_t rows);
    TensorView logits;       // [T, E] f32
    TensorView experts;      // [T, K] i32
    TensorView weights;      // [T, K] f32
    TensorView rows;         // [T, D] act: what travels
    TensorView shared;       // [T, D] f32; rank 0 without shared experts
    TensorView grouped;      // [max_rows * K, D] act: rows by expert
    TensorView grouped_out;  // [max_rows * K, D] act
    TensorView out;          // [T, D] f32
  };

  absl::Status Dispatch(StepContext& step, const Scratch& scratch, const ExchangeTag& tag) const;
  absl::Status ReceiveDispatch(StepContext& step, const ExchangeTag& tag) const;
  absl::Status ComputeExperts(StepContext& step, const Scratch& scratch,
                              const ExchangeTag& tag) const;
  absl::Status ReceiveCombine(StepContext& step, const ExchangeTag& tag) const;
  absl::Status Exchange(StepContext& step, const Scratch& scratch, TensorView h) const;

  MoeConfig config_;
  int layer_ = 0;
  int hidden_size_ = 0;
  DType activation_dtype_ = DType::kF32;
  ExpertMessageShape shape_;
  DeviceTensor gate_;                     // [E, D] as stored
  DeviceTensor e_score_correction_bias_;  // [E] f32, or none
  std::optional<FfnWeights> shared_experts_;
  std::vector<std::unique_ptr<FfnWeights>> experts_;  // by logical id; null: not held
};

}  // namespace shoal
