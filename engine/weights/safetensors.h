// SPDX-License-Identifier: Apache-2.0
// One safetensors file, mapped: an 8-byte header length, a JSON header, tensors. The header is
// believed only as far as the file's size bears it out; data pages are touched only by whoever
// reads them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "engine/tensor/tensor.h"

namespace shoal {

struct TensorEntry {
  std::optional<DType> dtype;  // empty: a format this build does not know
  std::string dtype_name;      // as the header spells it
  std::vector<int64_t> shape;
  int64_t begin = 0;  // bytes from the start of the data
  int64_t end = 0;

  int64_t bytes() const { return end - begin; }
  std::string ToString() const;  // "[32768, 576] bf16"
};

class SafetensorsFile {
 public:
  // Errors: NotFound; InvalidArgument naming the file, and the tensor where there is one, for
  // anything that is not a whole, well-formed file: truncation, overlaps, holes, sizes that do not
  // follow from shape and dtype, names that occur twice.
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Open(const std::string& path);
  ~SafetensorsFile();
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  const std::string& path() const { return path_; }
  const std::map<std::string, TensorEntry>& tensors() const { return tensors_; }
  // The tensor's bytes, in the mapping; any alignment.
  absl::Span<const std::byte> Data(const TensorEntry& entry) const;
  // The tensor's bytes [offset, offset + out.size()), copied by way of the file: no page of the
  // mapping becomes resident. Errors: DataLoss when the file has become shorter.
  absl::Status Read(const TensorEntry& entry, int64_t offset, absl::Span<std::byte> out) const;
  // Lets the system take back the pages of a tensor that has been read.
  void DropPages(const TensorEntry& entry) const;

 private:
  SafetensorsFile() = default;
  absl::Status Map();
  absl::Status ParseHeader();
  void DropRange(size_t begin, size_t end) const;  // offsets in the file

  std::string path_;
  int fd_ = -1;
  std::byte* map_ = nullptr;
  size_t file_bytes_ = 0;
  size_t data_offset_ = 0;
  std::map<std::string, TensorEntry> tensors_;
};

}  // namespace shoal
