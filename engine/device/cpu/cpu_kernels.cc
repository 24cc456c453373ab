// SPDX-License-Identifier: Apache-2.0
#include "engine/device/cpu/cpu_kernels.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/device/cpu/attention.h"
#include "engine/device/cpu/context.h"
#include "engine/device/cpu/ffn.h"
#include "engine/device/cpu/linear.h"
#include "engine/device/cpu/mla.h"
#include "engine/device/cpu/packed_weight.h"
#include "engine/device/cpu/router.h"

namespace shoal {
namespace {

using cpu::Context;
using cpu::PackedWeight;

const PackedWeight& Packed(const PreparedWeight& weight) {
  return static_cast<const PackedWeight&>(weight);
}

class PagesBuffer final : public DeviceBuffer {
 public:
  explicit PagesBuffer(std::unique_ptr<cpu::Pages> pages) : pages_(std::move(pages)) {}
  void* data() override { return pages_->data(); }
  size_t bytes() const override { return pages_->bytes(); }

 private:
  std::unique_ptr<cpu::Pages> pages_;
};

class CpuKernels final : public Kernels {
 public:
  CpuKernels(const cpu::Isa& isa, int threads) : context_(isa, threads) {}

  absl::string_view name() const override { return "cpu"; }
  std::string numerics() const override { return absl::StrCat("cpu ", context_.isa.name); }
  DType activation_dtype() const override { return DType::kBF16; }
  DType cache_dtype() const override { return DType::kBF16; }

  absl::Status Reserve(int64_t max_rows, const ModelConfig& config) override {
    int64_t cols = config.hidden_size;  // widest input that is rounded into scratch
    int64_t hidden = 0;
    int64_t expert_rows = max_rows;
    for (const LayerConfig& layer : config.layers) {
      if (const auto* mla = std::get_if<MlaConfig>(&layer.attention)) {
        const int64_t heads = mla->num_attention_heads;
        cols = std::max({cols, heads * cpu::PaddedCols(mla->qk_nope_head_dim),
                         heads * cpu::PaddedCols(mla->v_head_dim),
                         heads * cpu::PaddedCols(mla->kv_lora_rank),
                         static_cast<int64_t>(mla->q_lora_rank)});
        SHOAL_RETURN_IF_ERROR(attention_.Reserve(context_, max_rows, heads,
                                                 mla->kv_lora_rank + mla->qk_rope_head_dim,
                                                 mla->kv_lora_rank));
      }
      if (const auto* dense = std::get_if<DenseFfnConfig>(&layer.ffn)) {
        hidden = std::max(hidden, max_rows * cpu::PaddedCols(dense->intermediate_size));
      } else if (const auto* moe = std::get_if<MoeConfig>(&layer.ffn)) {
        const int64_t width = moe->moe_intermediate_size;
        expert_rows = std::max(expert_rows, max_rows * moe->router.num_experts_per_tok);
        hidden =
            std::max({hidden, max_rows * moe->router.num_experts_per_tok * cpu::PaddedCols(width),
                      max_rows * cpu::PaddedCols(width * moe->n_shared_experts)});
      }
    }
    const bool fp8 = config.quant.has_value();
    SHOAL_RETURN_IF_ERROR(
        ffn_.Reserve(context_, hidden, std::max(1, config.MaxRoutedExperts()), fp8));
    const int64_t row_elements = std::max(max_rows * cpu::PaddedCols(cols),
                                          expert_rows * cpu::PaddedCols(config.hidden_size));
    SHOAL_RETURN_IF_ERROR(context_.rows.Reserve(row_elements * sizeof(uint16_t)));
    if (fp8) SHOAL_RETURN_IF_ERROR(context_.row_scales.Reserve(row_elements / 32 * sizeof(float)));
    for (cpu::ThreadScratch& thread : context_.threads) {
      SHOAL_RETURN_IF_ERROR(thread.decode.Reserve(cpu::kDecodeBytes));
      SHOAL_RETURN_IF_ERROR(
          thread.sums.Reserve(2 * cpu::kRowChunk * cpu::kPanelRows * sizeof(float)));
      SHOAL_RETURN_IF_ERROR(
          thread.row.Reserve(std::max<int64_t>(cols, 8 * config.hidden_size) * sizeof(float)));
    }
    return absl::OkStatus();
  }

  std::unique_ptr<Stream> NewStream() override { return std::make_unique<Stream>(); }

  absl::StatusOr<std::unique_ptr<DeviceBuffer>> Allocate(size_t bytes) override {
    SHOAL_ASSIGN_OR_RETURN(auto pages, cpu::Pages::Map(bytes, "buffer"));
    return std::make_unique<PagesBuffer>(std::move(pages));
  }

  absl::StatusOr<std::unique_ptr<PreparedWeight>> PrepareLinear(
      const QuantTensor& weight, const LinearOptions& options) override {
    return cpu::PackLinear(arena_, packer_, weight, options);
  }
  absl::StatusOr<std::unique_ptr<PreparedWeight>> PrepareHeads(const QuantTensor& weight,
                                                               int64_t heads, int64_t first_row,
                                                               int64_t row_count,
                                                               bool transpose) override {
    return cpu::PackHeads(arena_, packer_, weight, heads, first_row, row_count, transpose);
  }

  void Embed(Stream&, absl::Span<const int32_t> tokens, TensorView table, TensorView x) override {
    const int64_t width = table.dim(1);
    context_.For(tokens.size(), width * 6, [&](int64_t begin, int64_t end, int) {
      for (int64_t t = begin; t < end; ++t) Widen(table.Rows(tokens[t], 1), x.f32() + t * width);
    });
  }

  void RmsNorm(Stream&, TensorView x, TensorView w, float eps, TensorView y) override {
    const int64_t width = w.dim(0);
    context_.For(x.dim(0), width * 8, [&](int64_t begin, int64_t end, int thread) {
      for (int64_t t = begin; t < end; ++t) {
        const float* in = x.f32() + t * width;
        if (y.dtype() == DType::kF32) {
          context_.isa.rms_norm(in, w.f32(), width, eps, y.f32() + t * width);
        } else {
          auto* row =
              reinterpret_cast<float*>(context_.threads[thread].row.Get(width * sizeof(float)));
          context_.isa.rms_norm(in, w.f32(), width, eps, row);
          context_.isa.to_bf16(row, width, y.as<uint16_t>() + t * width);
        }
      }
    });
  }

  void Add(Stream&, TensorView x, TensorView y) override {
    Pieces(x.elements(), 12, [&](int64_t begin, int64_t count) {
      context_.isa.add(x.f32() + begin, y.f32() + begin, count);
    });
  }

  void Convert(Stream&, TensorView x, TensorView y) override {
    const bool from_float = x.dtype() == DType::kF32, to_float = y.dtype() == DType::kF32;
    SHOAL_CHECK((from_float || x.dtype() == DType::kBF16) &&
                (to_float || y.dtype() == DType::kBF16));
    Pieces(x.elements(), 8, [&](int64_t begin, int64_t count) {
      if (from_float && to_float) {
        std::memcpy(y.f32() + begin, x.f32() + begin, count * sizeof(float));
      } else if (from_float) {
        context_.isa.to_bf16(x.f32() + begin, count, y.as<uint16_t>() + begin);
      } else if (to_float) {
        context_.isa.from_bf16(x.as<uint16_t>() + begin, count, y.f32() + begin);
      } else {
        std::memcpy(y.as<uint16_t>() + begin, x.as<uint16_t>() + begin, count * sizeof(uint16_t));
      }
    });
  }

  void GatherRows(Stream&, TensorView src, absl::Span<const int32_t> rows, void* dst) override {
    const auto row_bytes = static_cast<int64_t>(src.row_elements() * DTypeBytes(src.dtype()));
    const auto* in = static_cast<const std::byte*>(src.data());
    auto* out = static_cast<std::byte*>(dst);
    context_.For(rows.size(), 2 * row_bytes, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i)
        std::memcpy(out + i * row_bytes, in + rows[i] * row_bytes, row_bytes);
    });
  }

  void Linear(Stream&, TensorView x, const PreparedWeight& weight, TensorView y) override {
    const PackedWeight& w = Packed(weight);
    const cpu::InputRows input =
        cpu::PrepareRows(context_, x, w, context_.rows, context_.row_scales);
    cpu::OutputRows output;
    output.y = static_cast<std::byte*>(y.data());
    output.dtype = y.dtype();
    output.row_stride = w.rows;
    cpu::Multiply(context_, input, x.dim(0), w, output);
  }

  void LinearHeads(Stream&, TensorView x, const PreparedWeight& weight, TensorView y) override {
    cpu::LinearHeads(context_, x, Packed(weight), y);
  }

  void RouterLogits(Stream&, TensorView x, TensorView w, TensorView logits) override {
    cpu::RouterLogits(context_, x, w, logits);
  }
  void Route(Stream&, const RouterConfig& config, TensorView logits, TensorView bias,
             TensorView experts, TensorView weights) override {
    cpu::Route(context_, config, logits, bias, experts, weights);
  }
  void GroupedFfn(Stream&, const GroupedFfnParams& params) override { ffn_.Run(context_, params); }

  void Combine(Stream&, const CombineParams& params) override {
    // Columns are independent, so a single row is shared out too.
    constexpr int64_t kPiece = 1024;
    const int64_t width = params.y.dim(1), chosen = params.weights.dim(1);
    const int64_t pieces = (width + kPiece - 1) / kPiece;
    SHOAL_CHECK(params.row_dtype == DType::kF32 || params.row_dtype == DType::kBF16);
    context_.For(
        params.y.dim(0) * pieces, kPiece * 4 * (chosen + 2), [&](int64_t begin, int64_t end, int) {
          for (int64_t item = begin; item < end; ++item) {
            const int64_t t = item / pieces, first = item % pieces * kPiece;
            const int64_t count = std::min(kPiece, width - first);
            float* y = params.y.f32() + t * width + first;
            if (params.shared.rank() == 0) {
              std::fill_n(y, count, 0.0f);
            } else {
              std::memmove(y, params.shared.f32() + t * width + first, count * sizeof(float));
            }
            for (int64_t k = 0; k < chosen; ++k) {
              const void* row = params.rows[t * chosen + k];
              const float weight = params.weights.f32()[t * chosen + k];
              if (params.row_dtype == DType::kF32) {
                context_.isa.add_scaled_f32(y, weight, static_cast<const float*>(row) + first,
                                            count);
              } else {
                context_.isa.add_scaled_bf16(y, weight, static_cast<const uint16_t*>(row) + first,
                                             count);
              }
            }
          }
        });
  }

  void MlaAppend(Stream&, const MlaAppendParams& params) override {
    cpu::MlaAppend(context_, params);
  }
  void MlaQuery(Stream&, const MlaQueryParams& params) override { cpu::MlaQuery(context_, params); }
  void MlaAttend(Stream&, const MlaAttendParams& params) override {
    attention_.Run(context_, params);
  }

 private:
  // body(begin, count) over pieces of `elements` elementwise results.
  template <typename Body>
  void Pieces(int64_t elements, int64_t bytes_each, const Body& body) {
    constexpr int64_t kPiece = 4096;
    context_.For((elements + kPiece - 1) / kPiece, kPiece * bytes_each,
                 [&](int64_t begin, int64_t end, int) {
                   body(begin * kPiece, std::min(end * kPiece, elements) - begin * kPiece);
                 });
  }

  void Widen(TensorView stored, float* out) const {
    const int64_t n = stored.elements();
    switch (stored.dtype()) {
      case DType::kBF16:
        return context_.isa.from_bf16(stored.as<uint16_t>(), n, out);
      case DType::kF16:
        return context_.isa.from_f16(stored.as<uint16_t>(), n, out);
      default:
        std::memcpy(out, stored.f32(), n * sizeof(float));
    }
  }

  cpu::Arena arena_;
  Context context_;
  cpu::Packer packer_{context_.pool};
  cpu::Ffn ffn_;
  cpu::Attention attention_;
};

int ThreadCount(const BackendOptions& options) {
  return options.threads > 0 ? options.threads : cpu::AvailableCores();
}

}  // namespace

std::unique_ptr<Kernels> CreateCpuKernels(const BackendOptions& options) {
  return std::make_unique<CpuKernels>(*cpu::SupportedIsas().isas[0], ThreadCount(options));
}

std::vector<absl::string_view> CpuInstructionSets() {
  const cpu::IsaList list = cpu::SupportedIsas();
  std::vector<absl::string_view> names;
  for (int i = 0; i < list.count; ++i) names.push_back(list.isas[i]->name);
  return names;
}

absl::StatusOr<std::unique_ptr<Kernels>> CreateCpuKernels(const BackendOptions& options,
                                                          absl::string_view instruction_set) {
  const cpu::IsaList list = cpu::SupportedIsas();
  for (int i = 0; i < list.count; ++i) {
    if (instruction_set == list.isas[i]->name) {
      return std::make_unique<CpuKernels>(*list.isas[i], ThreadCount(options));
    }
  }
  return absl::UnimplementedError(absl::StrCat("this machine or build lacks ", instruction_set));
}

}  // namespace shoal
