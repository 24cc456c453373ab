// SPDX-License-Identifier: Apache-2.0
#include "engine/device/cpu/linear.h"

#include <cstring>

#include "engine/base/check.h"

namespace shoal::cpu {

InputRows PrepareRows(Context& context, TensorView x, const PackedWeight& w, Scratch& rows,
                      Scratch& row_scales) {
  const int64_t count = x.dim(0);
  const int64_t cols = w.cols;
  SHOAL_CHECK(count == 0 || x.row_elements() == cols);
  InputRows input;
  input.stride = w.padded_cols();
  if (x.dtype() == DType::kBF16 && input.stride == cols && !w.fp8_activations) {
    input.x = x.as<uint16_t>();
    return input;
  }
  auto* out = reinterpret_cast<uint16_t*>(rows.Get(count * input.stride * sizeof(uint16_t)));
  input.x = out;
  float* scales = nullptr;
  if (w.fp8_activations) {
    input.scale_stride = w.blocks();
    scales = reinterpret_cast<float*>(row_scales.Get(count * input.scale_stride * sizeof(float)));
    input.scales = scales;
  }
  const Isa& isa = context.isa;
  context.For(count, cols * 6, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t t = begin; t < end; ++t) {
      uint16_t* row = out + t * input.stride;
      if (!w.fp8_activations) {
        if (x.dtype() == DType::kF32) {
          isa.to_bf16(x.f32() + t * cols, cols, row);
        } else {
          std::memcpy(row, x.as<uint16_t>() + t * cols, cols * sizeof(uint16_t));
        }
      } else {
        const float* values = nullptr;
        if (x.dtype() == DType::kF32) {
          values = x.f32() + t * cols;
        } else {
          auto* wide =
              reinterpret_cast<float*>(context.threads[thread].row.Get(cols * sizeof(float)));
          isa.from_bf16(x.as<uint16_t>() + t * cols, cols, wide);
          values = wide;
        }
        isa.quantise(values, cols, w.block_cols, w.ue8m0_scales, row,
                     scales + t * input.scale_stride);
      }
      for (int64_t k = cols; k < input.stride; ++k) row[k] = 0;
    }
  });
  return input;
}

void MultiplyPanel(Context& context, int thread, const InputRows& input, int64_t begin,
                   int64_t count, const PackedWeight& w, int64_t head, int64_t panel, float* sums) {
  PanelDot dot = w.Panel(head, panel);
  dot.x = input.x + begin * input.stride + head * input.head_stride;
  dot.x_stride = input.stride;
  dot.rows = count;
  if (input.scales != nullptr) {
    dot.x_scales = input.scales + begin * input.scale_stride;
    dot.x_scale_stride = input.scale_stride;
  }
  dot.c = sums;
  dot.decode = context.threads[thread].decode.Get(kDecodeBytes);
  context.isa.panel_dot(dot);
}

void OutputRows::Store(const Isa& isa, int64_t t, int64_t h, int64_t n, const float* sums,
                       int64_t count) const {
  const int64_t offset = t * row_stride + h * head_stride + n;
  if (dtype == DType::kF32) {
    std::memcpy(reinterpret_cast<float*>(y) + offset, sums, count * sizeof(float));
  } else {
    isa.to_bf16(sums, count, reinterpret_cast<uint16_t*>(y) + offset);
  }
}

void Multiply(Context& context, const InputRows& input, int64_t rows, const PackedWeight& w,
              const OutputRows& output) {
  if (rows == 0) return;
  const int64_t chunks = RowChunks(rows);
  const int64_t panels = w.panels();
  context.For(w.heads * panels * chunks, PanelCost(w, rows),
              [&](int64_t begin, int64_t end, int thread) {
                auto* sums = reinterpret_cast<float*>(
                    context.threads[thread].sums.Get(2 * kRowChunk * kPanelRows * sizeof(float)));
                for (int64_t item = begin; item < end; ++item) {
                  // Chunks run fastest: the panel is then still in the cache.
                  const int64_t chunk = item % chunks;
                  const int64_t panel = item / chunks % panels;
                  const int64_t head = item / chunks / panels;
                  const int64_t first = ChunkBegin(rows, chunk);
                  const int64_t count = ChunkBegin(rows, chunk + 1) - first;
                  MultiplyPanel(context, thread, input, first, count, w, head, panel, sums);
                  for (int64_t t = 0; t < count; ++t) {
                    output.Store(context.isa, first + t, head, panel * kPanelRows,
                                 sums + t * kPanelRows, w.panel_rows(panel));
                  }
                }
              });
}

}  // namespace shoal::cpu
