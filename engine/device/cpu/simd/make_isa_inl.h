// SPDX-License-Identifier: Apache-2.0
// The table of one instruction set. The files that include this are compiled with that set's own
// flags; they include nothing with inline functions of others, whose copies the linker might then
// choose for the whole program.
#pragma once

#include "engine/device/cpu/simd/isa.h"
#include "engine/device/cpu/simd/limits_inl.h"
#include "engine/device/cpu/simd/math_inl.h"
#include "engine/device/cpu/simd/panel_dot_inl.h"
#include "engine/device/cpu/simd/rows_inl.h"
// attend_inl.h uses rows_inl.h
#include "engine/device/cpu/simd/attend_inl.h"
#include "engine/device/cpu/simd/router_inl.h"

namespace shoal::cpu {

template <class V>
constexpr Isa MakeIsa(const char* name, bool (*supported)()) {
  Isa isa = {};
  isa.name = name;
  isa.supported = supported;
  isa.panel_dot = PanelDotImpl<V>::Run;
  isa.to_bf16 = Rows<V>::ToBF16;
  isa.from_bf16 = Rows<V>::template Widen<V::LoadBF16>;
  isa.from_f16 = Rows<V>::template Widen<V::LoadF16>;
  isa.add = Rows<V>::Add;
  isa.add_scaled_f32 = Rows<V>::AddScaledF32;
  isa.add_scaled_bf16 = Rows<V>::AddScaledBF16;
  isa.rms_norm = Rows<V>::RmsNorm;
  isa.silu_mul = Rows<V>::SiluMul;
  isa.quantise = Rows<V>::Quantise;
  isa.router_f32 = Router<V>::template Run<float>;
  isa.router_bf16 = Router<V>::template Run<uint16_t>;
  isa.exp_minus = Rows<V>::ExpMinus;
  isa.sigmoid = Rows<V>::Sigmoid;
  isa.pack_column = Attend<V>::PackColumn;
  isa.tile_scores = Attend<V>::TileScores;
  isa.tile_values = Attend<V>::TileValues;
  isa.merge_columns = Attend<V>::MergeColumns;
  isa.finish_column = Attend<V>::FinishColumn;
  isa.peak_bf16 = Limits<V>::PeakBF16;
  isa.read = Limits<V>::Read;
  return isa;
}

}  // namespace shoal::cpu
