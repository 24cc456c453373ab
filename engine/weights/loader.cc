// SPDX-License-Identifier: Apache-2.0
#include "engine/weights/loader.h"

#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/weights/finite.h"

namespace shoal {
namespace {

std::string ScaleName(const std::string& name) { return absl::StrCat(name, "_scale_inv"); }

bool IsPlainFloat(std::optional<DType> dtype) {
  return dtype == DType::kBF16 || dtype == DType::kF16 || dtype == DType::kF32;
}

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

absl::Status WrongTensor(absl::string_view name, const std::vector<int64_t>& shape,
                         absl::string_view dtypes, const TensorEntry& found) {
  return absl::InvalidArgumentError(absl::StrCat(name, ": want [", absl::StrJoin(shape, ", "), "] ",
                                                 dtypes, ", checkpoint has ", found.ToString()));
}

// A config that counts fewer layers than the checkpoint holds describes another model, whose logits
// would look plausible.
absl::Status CheckLayers(const Checkpoint& checkpoint, const ModelConfig& config) {
  constexpr absl::string_view kPrefix = "model.layers.";
  const int64_t known = static_cast<int64_t>(config.layers.size()) + config.num_nextn_predict_layers;
  const std::string* unexpected = nullptr;
  int64_t first = std::numeric_limits<int64_t>::max();
  for (auto it = checkpoint.tensors().lower_bound(std::string(kPrefix));
       it != checkpoint.tensors().end() && absl::StartsWith(it->first, kPrefix); ++it) {
    const absl::string_view rest = absl::string_view(it->first).substr(kPrefix.size());
    int64_t layer = 0;
    if (!absl::SimpleAtoi(rest.substr(0, rest.find('.')), &layer)) continue;
    if (layer < known || layer >= first) continue;
    first = layer;
    unexpected = &it->first;
  }
  if (unexpected == nullptr) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      *unexpected, ": want layers 0..", known - 1, " (num_hidden_layers ", config.layers.size(),
      ", num_nextn_predict_layers ", config.num_nextn_predict_layers,
      "), checkpoint has layer ", first));
}

TensorView ViewOf(void* data, DType dtype, const std::vector<int64_t>& shape) {
  return shape.size() == 1 ? TensorView(data, dtype, {shape[0]})
                           : TensorView(data, dtype, {shape[0], shape[1]});
}

}  // namespace

absl::StatusOr<std::unique_ptr<WeightLoader>> WeightLoader::Create(
    const Checkpoint& checkpoint, const ModelConfig& config, const ExpertPlacement& placement,
    RankId rank, Kernels& kernels, std::function<void(int64_t, int64_t)> progress) {
  std::unique_ptr<WeightLoader> loader(new WeightLoader(checkpoint, config, kernels));
  {
    absl::MutexLock lock(&loader->mutex_);
    loader->progress_ = std::move(progress);
  }
  SHOAL_RETURN_IF_ERROR(CheckLayers(checkpoint, config));
  absl::Status status;
  VisitCheckpointTensors(config, [&](TensorSpec spec) {
    if (!IsOwned(spec, placement, rank)) return true;
    status = loader->Check(spec);
    const std::string name = spec.name;
    loader->specs_.emplace(name, std::move(spec));
    return status.ok();
  });
  if (!status.ok()) return status;
  return loader;
}

absl::Status WeightLoader::Check(const TensorSpec& spec) {
  const Checkpoint::Location* found = checkpoint_.Find(spec.name);
  std::vector<int64_t> shape = {spec.rows};
  if (spec.cols > 0) shape.push_back(spec.cols);
  if (found == nullptr) {
    return absl::NotFoundError(absl::StrCat(spec.name, ": want [", absl::StrJoin(shape, ", "),
                                            "], checkpoint ", checkpoint_.directory(),
                                            " has no such tensor"));
  }
  const TensorEntry& entry = *found->entry;
  const bool fp8_allowed = spec.role == TensorRole::kLinear && config_.quant.has_value();
  const bool fp8 = fp8_allowed && entry.dtype == DType::kF8E4M3;
  if (entry.shape != shape || !(fp8 || IsPlainFloat(entry.dtype))) {
    return WrongTensor(spec.name, shape,
                       fp8_allowed ? "f8_e4m3, bf16, f16 or f32" : "bf16, f16 or f32", entry);
  }
  bytes_total_ += entry.bytes();

  const std::string scale_name = ScaleName(spec.name);
  const Checkpoint::Location* scales = checkpoint_.Find(scale_name);
  if (!fp8) {
    if (scales == nullptr) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(scale_name, ": want none, since ", spec.name,
                                                   " is ", entry.ToString(), "; checkpoint has ",
                                                   scales->entry->ToString()));
  }
  const std::vector<int64_t> scale_shape = {CeilDiv(spec.rows, config_.quant->block_rows),
                                            CeilDiv(spec.cols, config_.quant->block_cols)};
  if (scales == nullptr) {
    return absl::NotFoundError(absl::StrCat(scale_name, ": want [",
                                            absl::StrJoin(scale_shape, ", "),
                                            "] f32, checkpoint has no such tensor"));
  }
  const std::optional<DType> scale_dtype = scales->entry->dtype;
  if (scales->entry->shape != scale_shape ||
      (scale_dtype != DType::kF32 && scale_dtype != DType::kF8E8M0)) {
    return WrongTensor(scale_name, scale_shape, "f32 or f8_e8m0", *scales->entry);
  }
  bytes_total_ += scales->entry->bytes();
  return absl::OkStatus();
}

const TensorSpec& WeightLoader::Spec(const std::string& name) const {
  const auto it = specs_.find(name);
  SHOAL_CHECK(it != specs_.end());
  return it->second;
}

absl::StatusOr<WeightLoader::HostTensor> WeightLoader::Read(const std::string& name) {
  const Checkpoint::Location* found = checkpoint_.Find(name);
  const TensorEntry& entry = *found->entry;
  const absl::Span<const std::byte> bytes = found->shard->Data(entry);
  HostTensor tensor;
  // Views of checkpoints are only read; TensorView has no const twin.
  std::byte* data = const_cast<std::byte*>(bytes.data());
  if (reinterpret_cast<uintptr_t>(data) % DTypeBytes(*entry.dtype) != 0) {
    tensor.copy = std::make_unique<std::byte[]>(bytes.size());
    std::memcpy(tensor.copy.get(), bytes.data(), bytes.size());
    data = tensor.copy.get();
  }
  tensor.view = ViewOf(data, *entry.dtype, entry.shape);
  {
    absl::MutexLock lock(&mutex_);
    // Once: both halves of kv_b_proj look at the same bytes.
    if (!read_.insert(name).second) return tensor;
    bytes_read_ += entry.bytes();
  }
  // Brings the bytes into the cache too, from where they are packed next.
  if (const int64_t index = FirstNonFinite(tensor.view); index >= 0) {
    return absl::InvalidArgumentError(DescribeNonFinite(name, tensor.view, index));
  }
  return tensor;
}

absl::StatusOr<WeightLoader::HostWeight> WeightLoader::ReadWeight(const std::string& name) {
  HostWeight weight;
  SHOAL_ASSIGN_OR_RETURN(weight.data, Read(name));
  weight.quant.data = weight.data.view;
  if (weight.data.view.dtype() == DType::kF8E4M3) {
    SHOAL_ASSIGN_OR_RETURN(weight.scales, Read(ScaleName(name)));
    weight.quant.scales = weight.scales.view;
    weight.quant.block_rows = config_.quant->block_rows;
    weight.quant.block_cols = config_.quant->block_cols;
  }
  return weight;
}

void WeightLoader::Done(const std::string& name, size_t device_bytes) {
  const Checkpoint::Location* found = checkpoint_.Find(name);
  found->shard->DropPages(*found->entry);
  absl::MutexLock lock(&mutex_);
  weight_bytes_ += static_cast<int64_t>(device_bytes);
  if (progress_) progress_(bytes_read_, bytes_total_);
}

int64_t WeightLoader::bytes_read() const {
  absl::MutexLock lock(&mutex_);
  return bytes_read_;
}

int64_t WeightLoader::weight_bytes() const {
  absl::MutexLock lock(&mutex_);
  return weight_bytes_;
}

absl::StatusOr<std::unique_ptr<PreparedWeight>> WeightLoader::Linear(const std::string& name,
                                                                     const LinearOptions& options) {
  Spec(name);
  SHOAL_ASSIGN_OR_RETURN(const HostWeight weight, ReadWeight(name));
  LinearOptions effective = options;
  if (!weight.quant.quantised()) effective = LinearOptions();
  SHOAL_ASSIGN_OR_RETURN(auto prepared, kernels_.PrepareLinear(weight.quant, effective));
  Done(name, prepared->bytes());
  return prepared;
}

absl::StatusOr<std::unique_ptr<PreparedWeight>> WeightLoader::Heads(
    const std::string& name, int64_t heads, int64_t first_row, int64_t row_count, bool transpose) {
  Spec(name);
  SHOAL_ASSIGN_OR_RETURN(const HostWeight weight, ReadWeight(name));
  SHOAL_ASSIGN_OR_RETURN(
      auto prepared, kernels_.PrepareHeads(weight.quant, heads, first_row, row_count, transpose));
  Done(name, prepared->bytes());
  return prepared;
}

absl::StatusOr<DeviceTensor> WeightLoader::ToDevice(TensorView source) {
  DeviceTensor tensor;
  SHOAL_ASSIGN_OR_RETURN(tensor.buffer, kernels_.Allocate(source.bytes()));
  // Host backends: device memory is host memory.
  std::memcpy(tensor.buffer->data(), source.data(), source.bytes());
  tensor.view =
      source.rank() == 1
          ? TensorView(tensor.buffer->data(), source.dtype(), {source.dim(0)})
          : TensorView(tensor.buffer->data(), source.dtype(), {source.dim(0), source.dim(1)});
  return tensor;
}

absl::StatusOr<DeviceTensor> WeightLoader::Table(const std::string& name) {
  Spec(name);
  SHOAL_ASSIGN_OR_RETURN(const HostTensor host, Read(name));
  SHOAL_ASSIGN_OR_RETURN(DeviceTensor tensor, ToDevice(host.view));
  Done(name, tensor.view.bytes());
  return tensor;
}

absl::StatusOr<DeviceTensor> WeightLoader::Vector(const std::string& name) {
  const int64_t n = Spec(name).rows;
  SHOAL_ASSIGN_OR_RETURN(const HostTensor host, Read(name));
  std::vector<float> values(n);
  LoadAsFloat(host.view, 0, n, values.data());
  SHOAL_ASSIGN_OR_RETURN(DeviceTensor tensor,
                         ToDevice(TensorView(values.data(), DType::kF32, {n})));
  Done(name, tensor.view.bytes());
  return tensor;
}

}  // namespace shoal
