// SPDX-License-Identifier: Apache-2.0
// Brings the weights that one rank owns from a checkpoint onto its device, and touches nothing
// else.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "engine/config/expert_placement.h"
#include "engine/config/model_config.h"
#include "engine/config/tensor_manifest.h"
#include "engine/device/kernels.h"
#include "engine/weights/checkpoint.h"

namespace shoal {

// A tensor resident on the device as rows: an embedding, a norm, a router. Owns its memory.
struct DeviceTensor {
  std::unique_ptr<DeviceBuffer> buffer;
  TensorView view;
};

// Linear, Heads, Table and Vector may be called from several threads at once, and refuse values
// that are not finite: "model.norm.weight: holds NaN at [17]". Checkpoint, config and kernels
// outlive it. Names are those of the manifest; asking for another one is our own bug.
class WeightLoader {
 public:
  // Checks that every tensor `rank` owns is there with the right shape, dtype and scales, before
  // any is read. Errors: InvalidArgument "model.layers.3.mlp.gate.weight: want [16, 96] bf16, f16
  // or f32, checkpoint has [16, 95] bf16"; NotFound for a missing one.
  static absl::StatusOr<std::unique_ptr<WeightLoader>> Create(
      const Checkpoint& checkpoint, const ModelConfig& config, const ExpertPlacement& placement,
      RankId rank, Kernels& kernels, std::function<void(int64_t done, int64_t total)> progress);

  // A linear layer, in the backend's form; `linear.fp8_activations` takes effect where the weight
  // is E4M3.
  absl::StatusOr<std::unique_ptr<PreparedWeight>> Linear(const std::string& name,
                                                         const LinearOptions& options);
  // Part of a projection that is stacked by heads: see Kernels::PrepareHeads.
  absl::StatusOr<std::unique_ptr<PreparedWeight>> Heads(const std::string& name, int64_t heads,
                                                        int64_t first_row, int64_t row_count,
                                                        bool transpose);
  // As stored: [rows, cols].
  absl::StatusOr<DeviceTensor> Table(const std::string& name);
  // Converted to f32: [n].
  absl::StatusOr<DeviceTensor> Vector(const std::string& name);

  int64_t bytes_total() const { return bytes_total_; }  // of the owned tensors, in the checkpoint
  int64_t bytes_read() const;                           // touched so far, each tensor once
  int64_t weight_bytes() const;                         // resident on the device so far

 private:
  WeightLoader(const Checkpoint& checkpoint, const ModelConfig& config, Kernels& kernels)
      : checkpoint_(checkpoint), config_(config), kernels_(kernels) {}

  // A tensor's bytes at an address fit for its dtype: in the mapping, or copied beside it.
  struct HostTensor {
    TensorView view;
    std::unique_ptr<std::byte[]> copy;
  };
  struct HostWeight {
    HostTensor data;
    HostTensor scales;
    QuantTensor quant;
  };

  absl::Status Check(const TensorSpec& spec);
  const TensorSpec& Spec(const std::string& name) const;
  // Errors: InvalidArgument naming the first value that is not finite.
  absl::StatusOr<HostTensor> Read(const std::string& name);
  absl::StatusOr<HostWeight> ReadWeight(const std::string& name);
  // The tensor has been read into `device_bytes` of device memory.
  void Done(const std::string& name, size_t device_bytes);
  absl::StatusOr<DeviceTensor> ToDevice(TensorView source);

  const Checkpoint& checkpoint_;
  const ModelConfig& config_;
  Kernels& kernels_;
  std::map<std::string, TensorSpec> specs_;  // owned ones
  int64_t bytes_total_ = 0;

  mutable absl::Mutex mutex_;
  std::function<void(int64_t, int64_t)> progress_ ABSL_GUARDED_BY(mutex_);
  std::set<std::string> read_ ABSL_GUARDED_BY(mutex_);  // tensors counted in bytes_read_
  int64_t bytes_read_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t weight_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace shoal
