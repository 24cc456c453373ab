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

  // Opens `path` and writes the header. Where `path`, its links followed, is absent or a regular
  // file, all is written beside it and takes its place in Finish, so that a failure leaves an old
  // file as it was; a device or pipe is written to in order, the data in Finish. Errors: those of
  // the file system.
  static absl::StatusOr<std::unique_ptr<SafetensorsWriter>> Create(const std::string& path,
                                                                   std::vector<Tensor> tensors);
  ~SafetensorsWriter();  // without Finish: removes what it wrote beside `path`
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  // Writes `bytes` at `offset` of tensor `index`. From any thread.
  absl::Status Write(size_t index, int64_t offset, absl::Span<const std::byte> bytes);
  absl::Status Finish();

 private:
  SafetensorsWriter() = default;
  absl::Status OpenTarget();
  absl::Status OpenBeside(const std::string& target);
  absl::Status OpenInPlace();
  absl::Status WriteAt(int64_t offset, absl::Span<const std::byte> bytes);
  absl::Status CopyToTarget();

  std::string path_;       // as given
  std::string target_;     // what Finish replaces; empty: a device or pipe, written to in place
  std::string temporary_;  // beside target_
  int fd_ = -1;            // rows go here, in any order
  int in_place_ = -1;      // the device or pipe
  std::vector<int64_t> begins_;  // of each tensor, in the file; one more for the end
};

}  // namespace shoal
