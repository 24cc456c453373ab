// SPDX-License-Identifier: Apache-2.0
#include "engine/tensor/quant_tensor.h"

namespace shoal {

void LoadAsFloat(TensorView source, int64_t begin, int64_t count, float* out) {
  switch (source.dtype()) {
    case DType::kF32:
      for (int64_t i = 0; i < count; ++i) out[i] = source.as<float>()[begin + i];
      return;
    case DType::kF16:
      for (int64_t i = 0; i < count; ++i) out[i] = F16ToFloat(source.as<uint16_t>()[begin + i]);
      return;
    case DType::kBF16:
      for (int64_t i = 0; i < count; ++i) out[i] = BF16ToFloat(source.as<uint16_t>()[begin + i]);
      return;
    case DType::kF8E4M3:
      for (int64_t i = 0; i < count; ++i) out[i] = E4M3ToFloat(source.as<uint8_t>()[begin + i]);
      return;
    case DType::kF8E8M0:
      for (int64_t i = 0; i < count; ++i) out[i] = E8M0ToFloat(source.as<uint8_t>()[begin + i]);
      return;
    case DType::kI8:
    case DType::kI32:
    case DType::kI64:
      SHOAL_CHECK(false && "an integer tensor has no float value");
  }
}

void Dequantise(const QuantTensor& weight, TensorView out) {
  const int64_t rows = weight.rows();
  const int64_t cols = weight.cols();
  SHOAL_CHECK(out.elements() == rows * cols);
  LoadAsFloat(weight.data, 0, rows * cols, out.f32());
  if (!weight.quantised()) return;
  for (int64_t n = 0; n < rows; ++n) {
    const int64_t scale_row = n / weight.block_rows * weight.scales.dim(1);
    for (int64_t k = 0; k < cols; ++k) {
      float scale = 0;
      LoadAsFloat(weight.scales, scale_row + k / weight.block_cols, 1, &scale);
      out.f32()[n * cols + k] *= scale;
    }
  }
}

}  // namespace shoal
