// SPDX-License-Identifier: Apache-2.0
// A backend that passes everything on to another and keeps what the goldens know about: each
// layer's sublayer outputs (what is added to the residual) and its choice of experts. So the model
// needs no hooks for tests.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/device/kernels.h"

namespace shoal {

class RecordingKernels final : public Kernels {
 public:
  explicit RecordingKernels(std::unique_ptr<Kernels> inner) : inner_(std::move(inner)) {}

  struct Routing {
    std::vector<int32_t> experts;  // [T, K]
    std::vector<float> weights;    // [T, K]
  };
  // Of the last step: two per layer (attention, feed-forward), one per mixture layer.
  std::vector<std::vector<float>> added;
  std::vector<Routing> routings;
  void Clear() {
    added.clear();
    routings.clear();
  }

  absl::string_view name() const override { return inner_->name(); }
  std::string numerics() const override { return inner_->numerics(); }
  DType activation_dtype() const override { return inner_->activation_dtype(); }
  DType cache_dtype() const override { return inner_->cache_dtype(); }
  absl::Status Reserve(int64_t max_rows, const ModelConfig& config) override {
    return inner_->Reserve(max_rows, config);
  }
  std::unique_ptr<Stream> NewStream() override { return inner_->NewStream(); }
  absl::StatusOr<std::unique_ptr<DeviceBuffer>> Allocate(size_t bytes) override {
    return inner_->Allocate(bytes);
  }
  absl::StatusOr<std::unique_ptr<PreparedWeight>> PrepareLinear(
      const QuantTensor& weight, const LinearOptions& options) override {
    return inner_->PrepareLinear(weight, options);
  }
  absl::StatusOr<std::unique_ptr<PreparedWeight>> PrepareHeads(const QuantTensor& weight,
                                                               int64_t heads, int64_t first_row,
                                                               int64_t row_count,
                                                               bool transpose) override {
    return inner_->PrepareHeads(weight, heads, first_row, row_count, transpose);
  }
  void Embed(Stream& s, absl::Span<const int32_t> tokens, TensorView table, TensorView x) override {
    inner_->Embed(s, tokens, table, x);
  }
  void RmsNorm(Stream& s, TensorView x, TensorView w, float eps, TensorView y) override {
    inner_->RmsNorm(s, x, w, eps, y);
  }
  void Add(Stream& s, TensorView x, TensorView y) override {
    added.emplace_back(y.f32(), y.f32() + y.elements());
    inner_->Add(s, x, y);
  }
  void Convert(Stream& s, TensorView x, TensorView y) override { inner_->Convert(s, x, y); }
  void GatherRows(Stream& s, TensorView src, absl::Span<const int32_t> rows, void* dst) override {
    inner_->GatherRows(s, src, rows, dst);
  }
  void Linear(Stream& s, TensorView x, const PreparedWeight& w, TensorView y) override {
    inner_->Linear(s, x, w, y);
  }
  void LinearHeads(Stream& s, TensorView x, const PreparedWeight& w, TensorView y) override {
    inner_->LinearHeads(s, x, w, y);
  }
  void RouterLogits(Stream& s, TensorView x, TensorView w, TensorView logits) override {
    inner_->RouterLogits(s, x, w, logits);
  }
  void Route(Stream& s, const RouterConfig& config, TensorView logits, TensorView bias,
             TensorView experts, TensorView weights) override {
    inner_->Route(s, config, logits, bias, experts, weights);
    routings.push_back({{experts.as<int32_t>(), experts.as<int32_t>() + experts.elements()},
                        {weights.f32(), weights.f32() + weights.elements()}});
  }
  void GroupedFfn(Stream& s, const GroupedFfnParams& params) override {
    inner_->GroupedFfn(s, params);
  }
  void Combine(Stream& s, const CombineParams& params) override { inner_->Combine(s, params); }
  void MlaAppend(Stream& s, const MlaAppendParams& params) override {
    inner_->MlaAppend(s, params);
  }
  void MlaQuery(Stream& s, const MlaQueryParams& params) override { inner_->MlaQuery(s, params); }
  void MlaAttend(Stream& s, const MlaAttendParams& params) override {
    inner_->MlaAttend(s, params);
  }

 private:
  std::unique_ptr<Kernels> inner_;
};

}  // namespace shoal
