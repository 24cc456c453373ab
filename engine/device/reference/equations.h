// SPDX-License-Identifier: Apache-2.0
// The mathematics of the reference backend: one plain function per equation, scalar f32, sums in
// the order of their index. What these say is what every other backend is tested against.
#pragma once

#include <cstdint>

#include "absl/functional/function_ref.h"

namespace shoal::reference {

// sum_k a[k] * b[k].
float Dot(const float* a, const float* b, int64_t n);

// y = w * x / sqrt(mean(x^2) + eps). y may be x.
void RmsNorm(const float* x, const float* w, int64_t n, float eps, float* y);

// Rotates pairs (2i, 2i+1) by the angle whose cos and sin are given, [n/2] each. y may be x.
void RotateInterleaved(const float* x, const float* cos, const float* sin, int64_t n, float* y);

// gate[i] = silu(gate[i]) * up[i], silu(v) = v / (1 + e^-v).
void SiluMultiply(float* gate, const float* up, int64_t n);

// Official FP8 activation quantisation (DeepSeek-V3 inference/kernel.py, act_quant): per 128
// values, scale = max(|x|, 1e-4) / 448, rounded up to a power of two if `ue8m0`; q = e4m3(x /
// scale), kept here as f32. A last partial block takes what is left. scales: [ceil(n / 128)].
void QuantiseRow(const float* x, int64_t n, bool ue8m0, float* q, float* scales);

// y[n] = sum over blocks b of (sum_{k in b} q[k] * w[n, k]) * x_scales[b] * w_scales[n / 128, b]:
// the official FP8 product (fp8_gemm). w [rows, cols] holds E4M3 values.
void Fp8Linear(const float* q, const float* x_scales, const float* w, const float* w_scales,
               int64_t rows, int64_t cols, float* y);

// One query of one head: u = sum_s p_s * row(s)[:latent], p = softmax over s < context of
// scale * q . row(s). q [width]; u [latent]; row(s) [width].
void Attend(const float* q, int64_t width, int64_t latent, int64_t context, float scale,
            absl::FunctionRef<const float*(int64_t s)> row, float* u);

}  // namespace shoal::reference
