// SPDX-License-Identifier: Apache-2.0
// Weights as the CPU multiplies by them: panels of 64 outputs, interleaved so that one column of K
// (a pair, for bf16) of all of them is a few consecutive vectors (WeightFormat in simd/isa.h).
// Values are kept exactly as stored: bf16, f16 and f32 as they are, E4M3 as one byte with its block
// scales apart. What no format holds exactly becomes f32.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/device/cpu/memory.h"
#include "engine/device/cpu/simd/isa.h"
#include "engine/device/cpu/thread_pool.h"
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
  size_t PanelBytesBefore(int64_t head, int64_t panel) const;
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

// Packs with all threads; one weight at a time, whoever asks.
class Packer {
 public:
  explicit Packer(ThreadPool& pool) : pool_(pool) {}
  template <typename Body>
  void For(int64_t items, const Body& body) {
    std::lock_guard<std::mutex> lock(mutex_);
    pool_.For(items, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t item = begin; item < end; ++item) body(item);
    });
  }

 private:
  std::mutex mutex_;
  ThreadPool& pool_;
};

// See Kernels::PrepareLinear and PrepareHeads. Errors: InvalidArgument for what cannot be a weight;
// ResourceExhausted.
absl::StatusOr<std::unique_ptr<PackedWeight>> PackLinear(Arena& arena, Packer& packer,
                                                         const QuantTensor& weight,
                                                         const LinearOptions& options);
absl::StatusOr<std::unique_ptr<PackedWeight>> PackHeads(Arena& arena, Packer& packer,
                                                        const QuantTensor& weight, int64_t heads,
                                                        int64_t first_row, int64_t row_count,
                                                        bool transpose);

}  // namespace shoal::cpu
