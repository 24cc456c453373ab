// SPDX-License-Identifier: Apache-2.0
// Weights as the CPU multiplies by them: panels of 64 outputs, interleaved so that one column of K
// (a pair, for bf16) of all of them is a few consecutive vectors (WeightFormat in simd/isa.h).
// Values are kept exactly as stored: bf16, f16 and f32 as they are, E4M3 as one byte with its block
// scales apart. What no format holds exactly becomes f32.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/device/cpu/memory.h"
#include "engine/device/cpu/simd/isa.h"
#include "engine/device/kernels.h"

namespace shoal::cpu {

// x[t, k] for k in [cols, padded) must be zero: weights are padded to this many columns.
constexpr int64_t PaddedCols(int64_t cols) { return (cols + 3) / 4 * 4; }

struct PackedWeight final : PreparedWeight {
  size_t bytes() const override { return head_bytes * heads + scales.size() * sizeof(float); }
  int64_t panels() const { return (rows + kPanelRows - 1) / kPanelRows; }
  int64_t padded_cols() const { return PaddedCols(cols); }
  // Blocks of K with a scale of their own; 0 when unscaled.
  int64_t blocks() const { return block_cols == 0 ? 0 : (cols + block_cols - 1) / block_cols; }
  // Outputs of one panel: 64, or what is left.
  int64_t panel_rows(int64_t panel) const {
    return rows - panel * kPanelRows < kPanelRows ? rows - panel * kPanelRows : kPanelRows;
  }
  // Everything of a product that the weight decides.
  PanelDot Panel(int64_t head, int64_t panel) const;

  WeightFormat format = WeightFormat::kBF16;
  bool fp8_activations = false;
  bool ue8m0_scales = false;
  int64_t block_cols = 0;
  size_t head_bytes = 0;
  Piece data;  // [heads][panels][...]
  std::vector<float>
      scales;  // [heads][panels][blocks][4]; the last panel's rows are as many as its vectors
};

// See Kernels::PrepareLinear and PrepareHeads. Errors: InvalidArgument for what cannot be a weight;
// ResourceExhausted.
absl::StatusOr<std::unique_ptr<PackedWeight>> PackLinear(Arena& arena, const QuantTensor& weight,
                                                         const LinearOptions& options);
absl::StatusOr<std::unique_ptr<PackedWeight>> PackHeads(Arena& arena, const QuantTensor& weight,
                                                        int64_t heads, int64_t first_row,
                                                        int64_t row_count, bool transpose);

}  // namespace shoal::cpu
