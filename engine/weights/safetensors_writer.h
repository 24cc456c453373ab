// SPDX-License-Identifier: Apache-2.0
// Writes one safetensors file whose tensors are known beforehand and whose rows arrive in any
// order, so that outputs larger than memory can be written as they are computed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/tensor/dtype.h"

namespace shoal {

class SafetensorsWriter {
 public:
  struct Tensor {
    std::string name;
    DType dtype = DType::kF32;
    std::vector<int64_t> shape;
  };

  // Creates `path`.tmp with the header; Finish renames it. Errors: those of the file system.
  static absl::StatusOr<std::unique_ptr<SafetensorsWriter>> Create(const std::string& path,
                                                                   std::vector<Tensor> tensors);
  ~SafetensorsWriter();  // without Finish: removes the temporary file
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  // Writes `bytes` at `offset` of tensor `index`. From any thread.
  absl::Status Write(size_t index, int64_t offset, absl::Span<const std::byte> bytes);
  absl::Status Finish();

 private:
  SafetensorsWriter() = default;
  absl::Status WriteAt(int64_t offset, absl::Span<const std::byte> bytes);

  std::string path_;
  std::string temporary_;
  int fd_ = -1;
  std::vector<int64_t> begins_;  // of each tensor, in the file; one more for the end
};

}  // namespace shoal
