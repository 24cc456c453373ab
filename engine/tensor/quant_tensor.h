// SPDX-License-Identifier: Apache-2.0
// A weight as its checkpoint stores it: values, and block scales if they are quantised.
#pragma once

#include <cstdint>

#include "engine/tensor/tensor.h"

namespace shoal {

// w[n, k] = value(data[n, k]) * value(scales[n / block_rows, k / block_cols]); edge blocks may be
// partial.
struct QuantTensor {
  TensorView data;  // [N, K]; BF16, F16, F32 or F8_E4M3
  TensorView
      scales;  // [ceil(N/block_rows), ceil(K/block_cols)] F32 or F8_E8M0; rank 0 when unquantised
  int block_rows = 0;
  int block_cols = 0;

  bool quantised() const { return block_rows > 0; }
  int64_t rows() const { return data.dim(0); }
  int64_t cols() const { return data.dim(1); }
};

// Elements [begin, begin + count) of a floating-point tensor, exactly, as f32. Host memory.
void LoadAsFloat(TensorView source, int64_t begin, int64_t count, float* out);

// The whole weight dequantised: out [N, K] f32, row-major, host memory. One rounding, that of
// value times scale in f32.
void Dequantise(const QuantTensor& weight, TensorView out);

}  // namespace shoal
