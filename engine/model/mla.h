// SPDX-License-Identifier: Apache-2.0
// Multi-head latent attention, arXiv:2405.04434 sec. 2.1, in its absorbed form for prefill and
// decode alike: the cache holds one latent and one rotated key per token, shared by all heads.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/model/attention.h"
#include "engine/weights/loader.h"

namespace shoal {

class Mla final : public Attention {
 public:
  // `prefix`: "model.layers.3.self_attn.". `rope` outlives the layer.
  static absl::StatusOr<std::unique_ptr<Attention>> Load(
      WeightLoader& loader, const std::string& prefix, const MlaConfig& config, int layer,
      int hidden_size, const RopeTable& rope, const LinearOptions& options, DType activation_dtype);

  TensorView Forward(StepContext& step, TensorView h) const override;
  void DeclareScratch(Arena& arena, int64_t rows) const override {
    Scratch::New(*this, arena, rows);
  }

 private:
  struct Scratch {
    static Scratch New(const Mla& mla, Arena& arena, int64_t rows);
    TensorView q_a;  // [T, q_lora_rank] f32; rank 0 without query latent
    TensorView q_a_norm;
    TensorView q;       // [T, H, nope+P] f32
    TensorView kv_a;    // [T, R+P] f32
    TensorView query;   // [T, H, R+P] act
    TensorView latent;  // [T, H, R] act
    TensorView heads;   // [T, H, v] f32
    TensorView out;     // [T, D] f32
  };

  MlaConfig config_;
  int layer_ = 0;
  int hidden_size_ = 0;
  RopeTable rope_;
  DType activation_dtype_ = DType::kF32;
  std::unique_ptr<PreparedWeight> q_proj_;  // without query latent
  std::unique_ptr<PreparedWeight> q_a_proj_;
  DeviceTensor q_a_layernorm_;
  std::unique_ptr<PreparedWeight> q_b_proj_;
  std::unique_ptr<PreparedWeight> kv_a_proj_with_mqa_;
  DeviceTensor kv_a_layernorm_;
  std::unique_ptr<PreparedWeight> wuk_;  // kv_b_proj's key half, per head [R, nope]
  std::unique_ptr<PreparedWeight> wuv_;  // its value half, per head [v, R]
  std::unique_ptr<PreparedWeight> o_proj_;
};

}  // namespace shoal
