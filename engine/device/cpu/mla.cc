// SPDX-License-Identifier: Apache-2.0
#include "engine/device/cpu/mla.h"

#include <algorithm>
#include <cstring>

#include "engine/base/check.h"
#include "engine/device/cpu/linear.h"

namespace shoal::cpu {
namespace {

// Rotates interleaved pairs by the angles of `position`; x and y [rope.dim] f32.
void Rotate(const RopeTable& rope, int64_t position, const float* x, float* y) {
  const int pairs = rope.dim / 2;
  const float* cos = rope.cos.data() + position * pairs;
  const float* sin = rope.sin.data() + position * pairs;
  for (int i = 0; i < pairs; ++i) {
    const float a = x[2 * i], b = x[2 * i + 1];
    y[2 * i] = a * cos[i] - b * sin[i];
    y[2 * i + 1] = a * sin[i] + b * cos[i];
  }
}

}  // namespace

void LinearHeads(Context& context, TensorView x, const PackedWeight& w, TensorView y) {
  const int64_t rows = x.dim(0);
  SHOAL_CHECK(x.dtype() == DType::kBF16);
  InputRows input;
  input.head_stride = w.padded_cols();
  input.stride = w.heads * input.head_stride;
  input.x = x.as<uint16_t>();
  if (input.head_stride != w.cols) {
    auto* padded =
        reinterpret_cast<uint16_t*>(context.rows.Get(rows * input.stride * sizeof(uint16_t)));
    for (int64_t i = 0; i < rows * w.heads; ++i) {
      std::memcpy(padded + i * input.head_stride, x.as<uint16_t>() + i * w.cols,
                  w.cols * sizeof(uint16_t));
      std::fill(padded + i * input.head_stride + w.cols, padded + (i + 1) * input.head_stride, 0);
    }
    input.x = padded;
  }
  OutputRows output;
  output.y = static_cast<std::byte*>(y.data());
  output.dtype = y.dtype();
  output.head_stride = w.rows;
  output.row_stride = w.heads * w.rows;
  Multiply(context, input, rows, w, output);
}

void MlaAppend(Context& context, const MlaAppendParams& params) {
  const int64_t latent = params.norm.dim(0), width = params.kv.dim(1);
  SHOAL_CHECK(params.pool.dtype() == DType::kBF16);
  context.For(params.kv.dim(0), width * 8, [&](int64_t begin, int64_t end, int thread) {
    auto* row = reinterpret_cast<float*>(context.threads[thread].row.Get(width * sizeof(float)));
    for (int64_t t = begin; t < end; ++t) {
      const float* kv = params.kv.f32() + t * width;
      context.isa.rms_norm(kv, params.norm.f32(), latent, params.eps, row);
      Rotate(params.rope, params.positions[t], kv + latent, row + latent);
      context.isa.to_bf16(row, width, params.pool.as<uint16_t>() + params.slots[t] * width);
    }
  });
}

void MlaQuery(Context& context, const MlaQueryParams& params) {
  const auto& wuk = static_cast<const PackedWeight&>(*params.wuk);
  const int64_t rows = params.q.dim(0), heads = params.q.dim(1), q_width = params.q.dim(2);
  const int64_t latent = wuk.rows, nope = wuk.cols, width = params.out.dim(2);
  SHOAL_CHECK(params.out.dtype() == DType::kBF16);
  InputRows input;
  input.head_stride = wuk.padded_cols();
  input.stride = heads * input.head_stride;
  auto* rounded =
      reinterpret_cast<uint16_t*>(context.rows.Get(rows * input.stride * sizeof(uint16_t)));
  input.x = rounded;
  auto* out = params.out.as<uint16_t>();
  context.For(rows, heads * q_width * 6, [&](int64_t begin, int64_t end, int thread) {
    auto* rotated =
        reinterpret_cast<float*>(context.threads[thread].row.Get(params.rope.dim * sizeof(float)));
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t h = 0; h < heads; ++h) {
        const float* q = params.q.f32() + (t * heads + h) * q_width;
        uint16_t* row = rounded + t * input.stride + h * input.head_stride;
        context.isa.to_bf16(q, nope, row);
        std::fill(row + nope, row + input.head_stride, 0);
        Rotate(params.rope, params.positions[t], q + nope, rotated);
        context.isa.to_bf16(rotated, params.rope.dim, out + (t * heads + h) * width + latent);
      }
    }
  });
  OutputRows output;
  output.y = reinterpret_cast<std::byte*>(out);
  output.dtype = DType::kBF16;
  output.head_stride = width;
  output.row_stride = heads * width;
  Multiply(context, input, rows, wuk, output);
}

}  // namespace shoal::cpu
