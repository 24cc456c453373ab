// SPDX-License-Identifier: Apache-2.0
#include "engine/model/decoder_layer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/model/mla.h"

namespace shoal {
namespace {

absl::StatusOr<std::unique_ptr<Attention>> LoadAttention(const LayerLoadContext& context, int layer,
                                                         const std::string& prefix,
                                                         const MlaConfig& config) {
  return Mla::Load(context.loader, prefix, config, layer, context.config.hidden_size, context.rope,
                   context.linear, context.activation_dtype);
}

absl::StatusOr<std::variant<DenseFfn, Moe>> LoadFeedForward(const LayerLoadContext& context, int,
                                                            const std::string& prefix,
                                                            const DenseFfnConfig&) {
  return DenseFfn::Load(context.loader, prefix, context.linear);
}

absl::StatusOr<std::variant<DenseFfn, Moe>> LoadFeedForward(const LayerLoadContext& context,
                                                            int layer, const std::string& prefix,
                                                            const MoeConfig& config) {
  return Moe::Load(context.loader, prefix, config, layer, context.config.hidden_size,
                   context.placement, context.rank, context.linear, context.activation_dtype,
                   context.max_rows);
}

}  // namespace

void DecoderLayer::Forward(StepContext& step, ResidualState& x) const {
  const size_t mark = step.arena.mark();
  TensorView h = attn_residual_.Read(step, x);
  h = RmsNorm(step, h, attn_norm_.view, eps_);
  attn_residual_.Write(step, attention_->Forward(step, h), x);
  step.arena.Rewind(mark);

  h = ffn_residual_.Read(step, x);
  h = RmsNorm(step, h, ffn_norm_.view, eps_);
  ffn_residual_.Write(step, FeedForward(step, h), x);
  step.arena.Rewind(mark);
}

TensorView DecoderLayer::FeedForward(StepContext& step, TensorView h) const {
  return std::visit([&](const auto& ffn) { return ffn.Forward(step, h); }, ffn_);
}

void DecoderLayer::DeclareScratch(Arena& arena, int64_t rows) const {
  const size_t mark = arena.mark();
  arena.New(DType::kF32, {rows, hidden_size_});  // h
  attention_->DeclareScratch(arena, rows);
  arena.Rewind(mark);

  arena.New(DType::kF32, {rows, hidden_size_});
  if (const Moe* mixture = moe(); mixture != nullptr) {
    mixture->DeclareScratch(arena, rows);
  } else {
    std::get<DenseFfn>(ffn_).DeclareScratch(arena, rows, hidden_size_);
  }
  arena.Rewind(mark);
}

absl::StatusOr<DecoderLayer> DecoderLayer::Load(const LayerLoadContext& context, int layer) {
  const LayerConfig& config = context.config.layers[layer];
  const std::string prefix = absl::StrCat("model.layers.", layer, ".");
  DecoderLayer decoder(std::get<AddResidualConfig>(config.residual));
  decoder.hidden_size_ = context.config.hidden_size;
  decoder.eps_ = context.config.rms_norm_eps;
  SHOAL_ASSIGN_OR_RETURN(decoder.attn_norm_,
                         context.loader.Vector(prefix + "input_layernorm.weight"));
  SHOAL_ASSIGN_OR_RETURN(decoder.ffn_norm_,
                         context.loader.Vector(prefix + "post_attention_layernorm.weight"));
  SHOAL_ASSIGN_OR_RETURN(
      decoder.attention_,
      std::visit(
          [&](const auto& c) { return LoadAttention(context, layer, prefix + "self_attn.", c); },
          config.attention));
  SHOAL_ASSIGN_OR_RETURN(
      decoder.ffn_,
      std::visit([&](const auto& c) { return LoadFeedForward(context, layer, prefix + "mlp.", c); },
                 config.ffn));
  return decoder;
}

}  // namespace shoal
