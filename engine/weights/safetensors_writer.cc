// SPDX-License-Identifier: Apache-2.0
#include "engine/weights/safetensors_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"

namespace shoal {

absl::StatusOr<std::unique_ptr<SafetensorsWriter>> SafetensorsWriter::Create(
    const std::string& path, std::vector<Tensor> tensors) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  std::vector<int64_t> offsets = {0};
  for (const Tensor& tensor : tensors) {
    int64_t bytes = static_cast<int64_t>(DTypeBytes(tensor.dtype));
    for (int64_t dim : tensor.shape) bytes *= dim;
    offsets.push_back(offsets.back() + bytes);
    header[tensor.name] = {{"dtype", std::string(DTypeName(tensor.dtype))},
                           {"shape", tensor.shape},
                           {"data_offsets", {*(offsets.end() - 2), offsets.back()}}};
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // so that the data are aligned

  std::unique_ptr<SafetensorsWriter> writer(new SafetensorsWriter());
  writer->path_ = path;
  writer->temporary_ = absl::StrCat(path, ".tmp");
  writer->fd_ = open(writer->temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (writer->fd_ < 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot write ", writer->temporary_));
  }
  std::string start(8, '\0');
  for (int i = 0; i < 8; ++i) start[i] = static_cast<char>(text.size() >> (8 * i));
  start += text;
  SHOAL_RETURN_IF_ERROR(
      writer->WriteAt(0, {reinterpret_cast<const std::byte*>(start.data()), start.size()}));
  for (int64_t offset : offsets) {
    writer->begins_.push_back(static_cast<int64_t>(start.size()) + offset);
  }
  if (ftruncate(writer->fd_, writer->begins_.back()) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot write ", writer->begins_.back(),
                                                   " bytes to ", writer->temporary_));
  }
  return writer;
}

SafetensorsWriter::~SafetensorsWriter() {
  if (fd_ < 0) return;
  close(fd_);
  std::remove(temporary_.c_str());
}

absl::Status SafetensorsWriter::Write(size_t index, int64_t offset,
                                      absl::Span<const std::byte> bytes) {
  const int64_t begin = begins_[index] + offset;
  SHOAL_CHECK(offset >= 0 && begin + static_cast<int64_t>(bytes.size()) <= begins_[index + 1]);
  return WriteAt(begin, bytes);
}

absl::Status SafetensorsWriter::WriteAt(int64_t offset, absl::Span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = pwrite(fd_, bytes.data(), bytes.size(), offset);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot write ", temporary_));
    bytes.remove_prefix(static_cast<size_t>(written));
    offset += written;
  }
  return absl::OkStatus();
}

absl::Status SafetensorsWriter::Finish() {
  const int fd = fd_;
  fd_ = -1;
  if (close(fd) != 0 || std::rename(temporary_.c_str(), path_.c_str()) != 0) {
    absl::Status status = absl::ErrnoToStatus(errno, absl::StrCat("cannot write ", path_));
    std::remove(temporary_.c_str());
    return status;
  }
  return absl::OkStatus();
}

}  // namespace shoal
