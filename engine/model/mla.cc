// SPDX-License-Identifier: Apache-2.0
#include "engine/model/mla.h"

#include <utility>

#include "engine/base/status_macros.h"

namespace shoal {
namespace {

// q_a_layernorm and kv_a_layernorm use their class's default, whatever rms_norm_eps says.
constexpr float kLatentNormEps = 1e-6f;

}  // namespace

absl::StatusOr<std::unique_ptr<Attention>> Mla::Load(
    WeightLoader& loader, const std::string& prefix, const MlaConfig& config, int layer,
    int hidden_size, const RopeTable& rope, const LinearOptions& options, DType activation_dtype) {
  auto mla = std::make_unique<Mla>();
  mla->config_ = config;
  mla->layer_ = layer;
  mla->hidden_size_ = hidden_size;
  mla->rope_ = rope;
  mla->activation_dtype_ = activation_dtype;
  if (config.q_lora_rank == 0) {
    SHOAL_ASSIGN_OR_RETURN(mla->q_proj_, loader.Linear(prefix + "q_proj.weight", options));
  } else {
    SHOAL_ASSIGN_OR_RETURN(mla->q_a_proj_, loader.Linear(prefix + "q_a_proj.weight", options));
    SHOAL_ASSIGN_OR_RETURN(mla->q_a_layernorm_, loader.Vector(prefix + "q_a_layernorm.weight"));
    SHOAL_ASSIGN_OR_RETURN(mla->q_b_proj_, loader.Linear(prefix + "q_b_proj.weight", options));
  }
  SHOAL_ASSIGN_OR_RETURN(mla->kv_a_proj_with_mqa_,
                         loader.Linear(prefix + "kv_a_proj_with_mqa.weight", options));
  SHOAL_ASSIGN_OR_RETURN(mla->kv_a_layernorm_, loader.Vector(prefix + "kv_a_layernorm.weight"));
  // Absorbed, kv_b_proj is no linear layer any more: dequantised, its input never quantised.
  const std::string kv_b = prefix + "kv_b_proj.weight";
  const int heads = config.num_attention_heads;
  SHOAL_ASSIGN_OR_RETURN(mla->wuk_, loader.Heads(kv_b, heads, 0, config.qk_nope_head_dim, true));
  SHOAL_ASSIGN_OR_RETURN(
      mla->wuv_, loader.Heads(kv_b, heads, config.qk_nope_head_dim, config.v_head_dim, false));
  SHOAL_ASSIGN_OR_RETURN(mla->o_proj_, loader.Linear(prefix + "o_proj.weight", options));
  return mla;
}

Mla::Scratch Mla::Scratch::New(const Mla& mla, Arena& arena, int64_t rows) {
  const MlaConfig& config = mla.config_;
  const int64_t heads = config.num_attention_heads;
  const int64_t latent = config.kv_lora_rank;
  const int64_t rope = config.qk_rope_head_dim;
  Scratch scratch;
  if (config.q_lora_rank > 0) {
    scratch.q_a = arena.New(DType::kF32, {rows, config.q_lora_rank});
    scratch.q_a_norm = arena.New(DType::kF32, {rows, config.q_lora_rank});
  }
  scratch.q = arena.New(DType::kF32, {rows, heads, config.qk_nope_head_dim + rope});
  scratch.kv_a = arena.New(DType::kF32, {rows, latent + rope});
  scratch.query = arena.New(mla.activation_dtype_, {rows, heads, latent + rope});
  scratch.latent = arena.New(mla.activation_dtype_, {rows, heads, latent});
  scratch.heads = arena.New(DType::kF32, {rows, heads, config.v_head_dim});
  scratch.out = arena.New(DType::kF32, {rows, mla.hidden_size_});
  return scratch;
}

TensorView Mla::Forward(StepContext& step, TensorView h) const {
  const Scratch scratch = Scratch::New(*this, step.arena, step.rows);
  const TensorView q = scratch.q.Reshape({step.rows, scratch.q.dim(1) * scratch.q.dim(2)});
  Kernels& kernels = step.kernels;
  Stream& stream = step.stream;

  if (config_.q_lora_rank == 0) {
    kernels.Linear(stream, h, *q_proj_, q);
  } else {
    kernels.Linear(stream, h, *q_a_proj_, scratch.q_a);
    kernels.RmsNorm(stream, scratch.q_a, q_a_layernorm_.view, kLatentNormEps, scratch.q_a_norm);
    kernels.Linear(stream, scratch.q_a_norm, *q_b_proj_, q);
  }
  kernels.Linear(stream, h, *kv_a_proj_with_mqa_, scratch.kv_a);

  const TensorView pool = step.cache.Pool(layer_);
  kernels.MlaAppend(stream, {.kv = scratch.kv_a,
                             .norm = kv_a_layernorm_.view,
                             .eps = kLatentNormEps,
                             .rope = rope_,
                             .positions = step.positions,
                             .slots = step.slots,
                             .pool = pool});
  kernels.MlaQuery(stream, {.q = scratch.q,
                            .wuk = wuk_.get(),
                            .rope = rope_,
                            .positions = step.positions,
                            .out = scratch.query});
  kernels.MlaAttend(stream, {.q = scratch.query,
                             .pool = pool,
                             .block_tokens = step.cache.block_tokens(),
                             .sequences = step.sequences,
                             .scale = config_.SoftmaxScale(),
                             .out = scratch.latent});
  kernels.LinearHeads(stream, scratch.latent, *wuv_, scratch.heads);
  const TensorView heads =
      scratch.heads.Reshape({step.rows, scratch.heads.dim(1) * scratch.heads.dim(2)});
  kernels.Linear(stream, heads, *o_proj_, scratch.out);
  return scratch.out;
}

}  // namespace shoal
