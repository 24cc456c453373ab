// SPDX-License-Identifier: Apache-2.0
#include "engine/device/reference/reference_kernels.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/device/reference/equations.h"
#include "engine/device/reference/router.h"

namespace shoal {
namespace {

// Pages of the process: zeroed, aligned, and none of them real before it is touched.
class HostBuffer final : public DeviceBuffer {
 public:
  HostBuffer(void* data, size_t bytes) : data_(data), bytes_(bytes) {}
  ~HostBuffer() override { munmap(data_, bytes_); }
  void* data() override { return data_; }
  size_t bytes() const override { return bytes_; }

 private:
  void* data_;
  size_t bytes_;
};

// Everything dequantised to f32, unless the official FP8 product needs values and scales apart.
struct ReferenceWeight final : PreparedWeight {
  size_t bytes() const override { return (values.size() + scales.size()) * sizeof(float); }
  const float* head(int64_t h) const { return values.data() + h * rows * cols; }

  std::vector<float> values;  // [heads, rows, cols]
  std::vector<float> scales;  // [ceil(rows/128), ceil(cols/128)] with fp8_activations
  bool fp8_activations = false;
  bool ue8m0 = false;
};

const ReferenceWeight& Of(const PreparedWeight& weight) {
  return static_cast<const ReferenceWeight&>(weight);
}

class ReferenceKernels final : public Kernels {
 public:
  absl::string_view name() const override { return "reference"; }
  std::string numerics() const override { return "reference f32"; }
  DType activation_dtype() const override { return DType::kF32; }
  DType cache_dtype() const override { return DType::kF32; }

  absl::Status Reserve(int64_t, const ModelConfig&) override { return absl::OkStatus(); }
  std::unique_ptr<Stream> NewStream() override { return std::make_unique<Stream>(); }

  absl::StatusOr<std::unique_ptr<DeviceBuffer>> Allocate(size_t bytes) override {
    const size_t wanted = std::max<size_t>(bytes, 1);
    void* data = mmap(nullptr, wanted, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) {
      return absl::ResourceExhaustedError(absl::StrCat("want ", bytes, " bytes of host memory"));
    }
    return std::make_unique<HostBuffer>(data, wanted);
  }

  absl::StatusOr<std::unique_ptr<PreparedWeight>> PrepareLinear(
      const QuantTensor& weight, const LinearOptions& options) override {
    auto prepared = std::make_unique<ReferenceWeight>();
    prepared->rows = weight.rows();
    prepared->cols = weight.cols();
    prepared->fp8_activations = options.fp8_activations;
    prepared->ue8m0 = options.ue8m0_scales;
    prepared->values.resize(weight.rows() * weight.cols());
    const TensorView values(prepared->values.data(), DType::kF32, {weight.rows(), weight.cols()});
    if (!options.fp8_activations) {
      Dequantise(weight, values);
      return prepared;
    }
    SHOAL_CHECK(weight.data.dtype() == DType::kF8E4M3 && weight.quantised());
    LoadAsFloat(weight.data, 0, values.elements(), values.f32());
    prepared->scales.resize(weight.scales.elements());
    LoadAsFloat(weight.scales, 0, weight.scales.elements(), prepared->scales.data());
    return prepared;
  }

  absl::StatusOr<std::unique_ptr<PreparedWeight>> PrepareHeads(const QuantTensor& weight,
                                                               int64_t heads, int64_t first_row,
                                                               int64_t row_count,
                                                               bool transpose) override {
    const int64_t slice = weight.rows() / heads;
    const int64_t cols = weight.cols();
    std::vector<float> whole(weight.rows() * cols);
    Dequantise(weight, TensorView(whole.data(), DType::kF32, {weight.rows(), cols}));
    auto prepared = std::make_unique<ReferenceWeight>();
    prepared->heads = heads;
    prepared->rows = transpose ? cols : row_count;
    prepared->cols = transpose ? row_count : cols;
    prepared->values.reserve(heads * row_count * cols);
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t n = 0; n < prepared->rows; ++n) {
        for (int64_t k = 0; k < prepared->cols; ++k) {
          const int64_t row = h * slice + first_row + (transpose ? k : n);
          prepared->values.push_back(whole[row * cols + (transpose ? n : k)]);
        }
      }
    }
    return prepared;
  }

  void Embed(Stream&, absl::Span<const int32_t> tokens, TensorView table, TensorView x) override {
    const int64_t width = table.dim(1);
    for (size_t t = 0; t < tokens.size(); ++t) {
      LoadAsFloat(table, tokens[t] * width, width, x.f32() + t * width);
    }
  }

  void RmsNorm(Stream&, TensorView x, TensorView w, float eps, TensorView y) override {
    const int64_t width = w.dim(0);
    for (int64_t t = 0; t < x.dim(0); ++t) {
      reference::RmsNorm(x.f32() + t * width, w.f32(), width, eps, y.f32() + t * width);
    }
  }

  void Add(Stream&, TensorView x, TensorView y) override {
    for (int64_t i = 0; i < x.elements(); ++i) x.f32()[i] += y.f32()[i];
  }

  void Convert(Stream&, TensorView x, TensorView y) override {
    std::copy_n(x.f32(), x.elements(), y.f32());
  }

  void GatherRows(Stream&, TensorView src, absl::Span<const int32_t> rows, void* dst) override {
    const size_t row_bytes = src.row_elements() * DTypeBytes(src.dtype());
    auto* out = static_cast<std::byte*>(dst);
    const auto* in = static_cast<const std::byte*>(src.data());
    for (int32_t row : rows) {
      std::memcpy(out, in + row * row_bytes, row_bytes);
      out += row_bytes;
    }
  }

  void Linear(Stream&, TensorView x, const PreparedWeight& w, TensorView y) override {
    for (int64_t t = 0; t < x.dim(0); ++t) {
      LinearRow(x.f32() + t * w.cols, Of(w), y.f32() + t * w.rows);
    }
  }

  void LinearHeads(Stream&, TensorView x, const PreparedWeight& w, TensorView y) override {
    for (int64_t t = 0; t < x.dim(0); ++t) {
      for (int64_t h = 0; h < w.heads; ++h) {
        const float* in = x.f32() + (t * w.heads + h) * w.cols;
        float* out = y.f32() + (t * w.heads + h) * w.rows;
        HeadRow(in, Of(w), h, out);
      }
    }
  }

  void RouterLogits(Stream&, TensorView x, TensorView w, TensorView logits) override {
    const int64_t width = w.dim(1);
    row_.resize(width);
    for (int64_t e = 0; e < w.dim(0); ++e) {
      LoadAsFloat(w, e * width, width, row_.data());
      for (int64_t t = 0; t < x.dim(0); ++t) {
        logits.f32()[t * w.dim(0) + e] = reference::Dot(x.f32() + t * width, row_.data(), width);
      }
    }
  }

  void Route(Stream&, const RouterConfig& config, TensorView logits, TensorView bias,
             TensorView experts, TensorView weights) override {
    for (int64_t t = 0; t < logits.dim(0); ++t) {
      router_.Route(config, logits.f32() + t * logits.dim(1),
                    bias.rank() == 0 ? nullptr : bias.f32(),
                    experts.as<int32_t>() + t * experts.dim(1), weights.f32() + t * weights.dim(1));
    }
  }

  void GroupedFfn(Stream&, const GroupedFfnParams& params) override {
    for (size_t e = 0; e < params.experts.size(); ++e) {
      const FfnWeights& ffn = *params.experts[e];
      const int64_t hidden = ffn.down->rows;
      gate_.resize(ffn.gate->rows);
      up_.resize(ffn.up->rows);
      for (int64_t row = params.row_offsets[e]; row < params.row_offsets[e + 1]; ++row) {
        const float* x = params.x.f32() + row * hidden;
        LinearRow(x, Of(*ffn.gate), gate_.data());
        LinearRow(x, Of(*ffn.up), up_.data());
        reference::SiluMultiply(gate_.data(), up_.data(), ffn.gate->rows);
        LinearRow(gate_.data(), Of(*ffn.down), params.y.f32() + row * hidden);
      }
    }
  }

  void Combine(Stream&, const CombineParams& params) override {
    const int64_t width = params.y.dim(1);
    const int64_t chosen = params.weights.dim(1);
    for (int64_t t = 0; t < params.y.dim(0); ++t) {
      float* y = params.y.f32() + t * width;
      if (params.shared.rank() == 0) {
        std::fill_n(y, width, 0.0f);
      } else {
        std::copy_n(params.shared.f32() + t * width, width, y);
      }
      for (int64_t k = 0; k < chosen; ++k) {
        const auto* row = static_cast<const float*>(params.rows[t * chosen + k]);
        const float weight = params.weights.f32()[t * chosen + k];
        for (int64_t d = 0; d < width; ++d) y[d] += weight * row[d];
      }
    }
  }

  void MlaAppend(Stream&, const MlaAppendParams& params) override {
    const int64_t latent = params.norm.dim(0);
    const int64_t width = params.kv.dim(1);
    for (int64_t t = 0; t < params.kv.dim(0); ++t) {
      const float* kv = params.kv.f32() + t * width;
      float* row = params.pool.f32() + params.slots[t] * width;
      reference::RmsNorm(kv, params.norm.f32(), latent, params.eps, row);
      Rotate(params.rope, params.positions[t], kv + latent, row + latent);
    }
  }

  void MlaQuery(Stream&, const MlaQueryParams& params) override {
    const int64_t heads = params.q.dim(1);
    const int64_t latent = params.wuk->rows;
    const int64_t nope = params.wuk->cols;
    for (int64_t t = 0; t < params.q.dim(0); ++t) {
      for (int64_t h = 0; h < heads; ++h) {
        const float* q = params.q.f32() + (t * heads + h) * params.q.dim(2);
        float* out = params.out.f32() + (t * heads + h) * params.out.dim(2);
        HeadRow(q, Of(*params.wuk), h, out);
        Rotate(params.rope, params.positions[t], q + nope, out + latent);
      }
    }
  }

  void MlaAttend(Stream&, const MlaAttendParams& params) override {
    const int64_t heads = params.q.dim(1);
    const int64_t width = params.q.dim(2);
    const int64_t latent = params.out.dim(2);
    for (const AttendSequence& sequence : params.sequences) {
      const auto row = [&](int64_t s) -> const float* {
        const int64_t block = sequence.block_table[s / params.block_tokens].value();
        const int64_t slot = block * params.block_tokens + s % params.block_tokens;
        return params.pool.f32() + slot * width;
      };
      for (int64_t i = 0; i < sequence.row_count; ++i) {
        const int64_t t = sequence.first_row + i;
        const int64_t context = sequence.start_position + i + 1;
        for (int64_t h = 0; h < heads; ++h) {
          reference::Attend(params.q.f32() + (t * heads + h) * width, width, latent, context,
                            params.scale, row, params.out.f32() + (t * heads + h) * latent);
        }
      }
    }
  }

 private:
  void LinearRow(const float* x, const ReferenceWeight& w, float* y) {
    if (!w.fp8_activations) {
      HeadRow(x, w, 0, y);
      return;
    }
    row_.resize(w.cols);
    row_scales_.resize((w.cols + 127) / 128);
    reference::QuantiseRow(x, w.cols, w.ue8m0, row_.data(), row_scales_.data());
    reference::Fp8Linear(row_.data(), row_scales_.data(), w.values.data(), w.scales.data(), w.rows,
                         w.cols, y);
  }

  static void HeadRow(const float* x, const ReferenceWeight& w, int64_t head, float* y) {
    for (int64_t n = 0; n < w.rows; ++n)
      y[n] = reference::Dot(x, w.head(head) + n * w.cols, w.cols);
  }

  static void Rotate(const RopeTable& rope, int64_t position, const float* x, float* y) {
    const int64_t offset = position * (rope.dim / 2);
    reference::RotateInterleaved(x, rope.cos.data() + offset, rope.sin.data() + offset, rope.dim,
                                 y);
  }

  // Scratch; grows to its largest size and stays.
  std::vector<float> row_, row_scales_, gate_, up_;
  reference::Router router_;
};

}  // namespace

std::unique_ptr<Kernels> CreateReferenceKernels() { return std::make_unique<ReferenceKernels>(); }

}  // namespace shoal
