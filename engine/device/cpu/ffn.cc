// SPDX-License-Identifier: Apache-2.0
#include "engine/device/cpu/ffn.h"

#include <algorithm>

#include "engine/base/status_macros.h"

namespace shoal::cpu {
namespace {

const PackedWeight& Packed(const std::unique_ptr<PreparedWeight>& weight) {
  return static_cast<const PackedWeight&>(*weight);
}

}  // namespace

absl::Status Ffn::Reserve(Context& context, int64_t hidden_elements, int64_t experts,
                          bool fp8_activations) {
  hidden_elements_ = std::max(hidden_elements_, hidden_elements);
  wave_.reserve(experts + 1);
  SHOAL_RETURN_IF_ERROR(context.hidden.Reserve(hidden_elements_ * sizeof(uint16_t)));
  if (!fp8_activations) return absl::OkStatus();
  // A scale per 32 values at least.
  SHOAL_RETURN_IF_ERROR(context.hidden_scales.Reserve(hidden_elements_ / 32 * sizeof(float)));
  return context.hidden_float.Reserve(hidden_elements_ * sizeof(float));
}

void Ffn::Run(Context& context, const GroupedFfnParams& params) {
  if (params.experts.empty() || params.x.dim(0) == 0) return;
  const PackedWeight& down = Packed(params.experts[0]->down);
  const int64_t capacity = std::max<int64_t>(1, hidden_elements_ / down.padded_cols());
  // Waves of as many rows as the scratch holds. Where a wave ends changes no row.
  wave_.clear();
  Segment next = {};
  for (size_t e = 0; e < params.experts.size(); ++e) {
    const FfnWeights& expert = *params.experts[e];
    for (int64_t begin = params.row_offsets[e]; begin < params.row_offsets[e + 1];) {
      const int64_t rows =
          std::min<int64_t>(params.row_offsets[e + 1] - begin, capacity - next.row);
      next.expert = &expert;
      next.begin = begin;
      next.rows = rows;
      wave_.push_back(next);
      begin += rows;
      next.row += rows;
      next.hidden += rows * Packed(expert.down).padded_cols();
      next.up_items += Packed(expert.gate).panels() * RowChunks(rows);
      next.down_items += Packed(expert.down).panels() * RowChunks(rows);
      if (next.row == capacity) {
        wave_.push_back(next);
        RunWave(context, params);
        wave_.clear();
        next = {};
      }
    }
  }
  if (wave_.empty()) return;
  wave_.push_back(next);
  RunWave(context, params);
}

void Ffn::RunWave(Context& context, const GroupedFfnParams& params) {
  const int64_t first_row = wave_[0].begin;
  const bool fp8 = Packed(wave_[0].expert->gate).fp8_activations;
  const InputRows input =
      PrepareRows(context, params.x.Rows(first_row, wave_.back().row),
                  Packed(wave_[0].expert->gate), context.rows, context.row_scales);
  context.hidden.Get(wave_.back().hidden * sizeof(uint16_t));
  if (fp8) context.hidden_float.Get(wave_.back().hidden * sizeof(float));
  Up(context, input, first_row);
  if (fp8) Quantise(context);
  Down(context, params);
}

const Ffn::Segment& Ffn::Find(int64_t item, int64_t Segment::*first) const {
  const auto after = std::upper_bound(wave_.begin(), wave_.end(), item,
                                      [&](int64_t i, const Segment& s) { return i < s.*first; });
  return *(after - 1);
}

void Ffn::Up(Context& context, const InputRows& input, int64_t first_row) {
  const Segment& end = wave_.back();
  const PackedWeight& typical = Packed(wave_[0].expert->gate);
  const int64_t cost = 2 * PanelCost(typical, end.row / static_cast<int64_t>(wave_.size()));
  auto* hidden = reinterpret_cast<uint16_t*>(context.hidden.Get(0));
  auto* hidden_float =
      reinterpret_cast<float*>(typical.fp8_activations ? context.hidden_float.Get(0) : nullptr);
  context.For(end.up_items, cost, [&](int64_t begin_item, int64_t end_item, int thread) {
    auto* gate = reinterpret_cast<float*>(
        context.threads[thread].sums.Get(2 * kRowChunk * kPanelRows * sizeof(float)));
    float* up = gate + kRowChunk * kPanelRows;
    for (int64_t item = begin_item; item < end_item; ++item) {
      const Segment& segment = Find(item, &Segment::up_items);
      const PackedWeight& gate_weight = Packed(segment.expert->gate);
      const int64_t chunks = RowChunks(segment.rows);
      const int64_t chunk = (item - segment.up_items) % chunks;
      const int64_t panel = (item - segment.up_items) / chunks;
      const int64_t first = ChunkBegin(segment.rows, chunk);
      const int64_t count = ChunkBegin(segment.rows, chunk + 1) - first;
      const int64_t row = segment.begin - first_row + first;
      MultiplyPanel(context, thread, input, row, count, gate_weight, 0, panel, gate);
      MultiplyPanel(context, thread, input, row, count, Packed(segment.expert->up), 0, panel, up);
      const int64_t stride = Packed(segment.expert->down).padded_cols();
      const int64_t width = gate_weight.rows;
      const int64_t columns = gate_weight.panel_rows(panel);
      for (int64_t t = 0; t < count; ++t) {
        float* sums = gate + t * kPanelRows;
        context.isa.silu_mul(sums, up + t * kPanelRows, columns);
        const int64_t offset = segment.hidden + (first + t) * stride + panel * kPanelRows;
        if (hidden_float != nullptr) {
          std::copy_n(sums, columns, hidden_float + offset);
        } else {
          context.isa.to_bf16(sums, columns, hidden + offset);
        }
        if (panel * kPanelRows + columns == width)
          std::fill_n(hidden + offset + columns, stride - width, 0);
      }
    }
  });
}

void Ffn::Quantise(Context& context) {
  const PackedWeight& down = Packed(wave_[0].expert->down);
  const int64_t stride = down.padded_cols();
  auto* hidden = reinterpret_cast<uint16_t*>(context.hidden.Get(0));
  auto* hidden_float = reinterpret_cast<float*>(context.hidden_float.Get(0));
  auto* scales = reinterpret_cast<float*>(
      context.hidden_scales.Get(wave_.back().row * down.blocks() * sizeof(float)));
  context.For(wave_.back().row, stride * 8, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      context.isa.quantise(hidden_float + t * stride, down.cols, down.block_cols, down.ue8m0_scales,
                           hidden + t * stride, scales + t * down.blocks());
    }
  });
}

void Ffn::Down(Context& context, const GroupedFfnParams& params) {
  const Segment& end = wave_.back();
  const PackedWeight& typical = Packed(wave_[0].expert->down);
  OutputRows output;
  output.y = static_cast<std::byte*>(params.y.data());
  output.dtype = params.y.dtype();
  output.row_stride = typical.rows;
  InputRows input;
  input.x = reinterpret_cast<const uint16_t*>(context.hidden.Get(0));
  input.stride = typical.padded_cols();
  if (typical.fp8_activations) {
    input.scales = reinterpret_cast<const float*>(context.hidden_scales.Get(0));
    input.scale_stride = typical.blocks();
  }
  const int64_t cost = PanelCost(typical, end.row / static_cast<int64_t>(wave_.size()));
  context.For(end.down_items, cost, [&](int64_t begin_item, int64_t end_item, int thread) {
    auto* sums = reinterpret_cast<float*>(
        context.threads[thread].sums.Get(2 * kRowChunk * kPanelRows * sizeof(float)));
    for (int64_t item = begin_item; item < end_item; ++item) {
      const Segment& segment = Find(item, &Segment::down_items);
      const PackedWeight& down = Packed(segment.expert->down);
      const int64_t chunks = RowChunks(segment.rows);
      const int64_t chunk = (item - segment.down_items) % chunks;
      const int64_t panel = (item - segment.down_items) / chunks;
      const int64_t first = ChunkBegin(segment.rows, chunk);
      const int64_t count = ChunkBegin(segment.rows, chunk + 1) - first;
      MultiplyPanel(context, thread, input, segment.row + first, count, down, 0, panel, sums);
      for (int64_t t = 0; t < count; ++t) {
        output.Store(context.isa, segment.begin + first + t, 0, panel * kPanelRows,
                     sums + t * kPanelRows, down.panel_rows(panel));
      }
    }
  });
}

}  // namespace shoal::cpu
