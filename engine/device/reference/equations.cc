// SPDX-License-Identifier: Apache-2.0
#include "engine/device/reference/equations.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "engine/tensor/dtype.h"

namespace shoal::reference {
namespace {

constexpr int64_t kBlock = 128;  // of FP8 scales, both ways

// 2^ceil(log2 s), on the bits: s positive and normal.
float RoundUpToPowerOfTwo(float s) {
  const uint32_t bits = std::bit_cast<uint32_t>(s);
  const uint32_t exponent = (bits >> 23) + ((bits & 0x7FFFFF) != 0 ? 1 : 0);
  return std::bit_cast<float>(exponent << 23);
}

}  // namespace

float Dot(const float* a, const float* b, int64_t n) {
  float sum = 0;
  for (int64_t k = 0; k < n; ++k) sum += a[k] * b[k];
  return sum;
}

void RmsNorm(const float* x, const float* w, int64_t n, float eps, float* y) {
  const float mean_square = Dot(x, x, n) / static_cast<float>(n);
  const float factor = 1.0f / std::sqrt(mean_square + eps);
  for (int64_t i = 0; i < n; ++i) y[i] = w[i] * (x[i] * factor);
}

void RotateInterleaved(const float* x, const float* cos, const float* sin, int64_t n, float* y) {
  for (int64_t i = 0; i < n / 2; ++i) {
    const float a = x[2 * i];
    const float b = x[2 * i + 1];
    y[2 * i] = a * cos[i] - b * sin[i];
    y[2 * i + 1] = a * sin[i] + b * cos[i];
  }
}

void SiluMultiply(float* gate, const float* up, int64_t n) {
  for (int64_t i = 0; i < n; ++i) gate[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
}

void QuantiseRow(const float* x, int64_t n, bool ue8m0, float* q, float* scales) {
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t end = std::min(n, begin + kBlock);
    float largest = 1e-4f;
    for (int64_t k = begin; k < end; ++k) largest = std::max(largest, std::fabs(x[k]));
    float scale = largest / 448.0f;
    if (ue8m0) scale = RoundUpToPowerOfTwo(scale);
    scales[begin / kBlock] = scale;
    for (int64_t k = begin; k < end; ++k) q[k] = E4M3ToFloat(FloatToE4M3(x[k] / scale));
  }
}

void Fp8Linear(const float* q, const float* x_scales, const float* w, const float* w_scales,
               int64_t rows, int64_t cols, float* y) {
  const int64_t blocks = (cols + kBlock - 1) / kBlock;
  for (int64_t n = 0; n < rows; ++n) {
    float sum = 0;
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t begin = b * kBlock;
      const float block = Dot(q + begin, w + n * cols + begin, std::min(kBlock, cols - begin));
      sum += block * x_scales[b] * w_scales[n / kBlock * blocks + b];
    }
    y[n] = sum;
  }
}

void Attend(const float* q, int64_t width, int64_t latent, int64_t context, float scale,
            absl::FunctionRef<const float*(int64_t s)> row, float* u) {
  float largest = -std::numeric_limits<float>::infinity();
  for (int64_t s = 0; s < context; ++s) largest = std::max(largest, scale * Dot(q, row(s), width));
  float total = 0;
  std::fill(u, u + latent, 0.0f);
  for (int64_t s = 0; s < context; ++s) {
    const float* c = row(s);
    const float p = std::exp(scale * Dot(q, c, width) - largest);
    total += p;
    for (int64_t i = 0; i < latent; ++i) u[i] += p * c[i];
  }
  for (int64_t i = 0; i < latent; ++i) u[i] /= total;
}

}  // namespace shoal::reference
