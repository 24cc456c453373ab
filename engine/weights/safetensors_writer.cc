// SPDX-License-Identifier: Apache-2.0
#include "engine/weights/safetensors_writer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"

namespace shoal {
namespace {

constexpr size_t kCopyBytes = size_t{1} << 20;

absl::Status CannotWrite(const std::string& path) {
  const int error = errno;
  return absl::ErrnoToStatus(error, absl::StrCat("cannot write ", path));
}

}  // namespace

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
  SHOAL_RETURN_IF_ERROR(writer->OpenTarget());
  std::string start(8, '\0');
  for (int i = 0; i < 8; ++i) start[i] = static_cast<char>(text.size() >> (8 * i));
  start += text;
  for (int64_t offset : offsets) {
    writer->begins_.push_back(static_cast<int64_t>(start.size()) + offset);
  }
  SHOAL_RETURN_IF_ERROR(
      writer->WriteAt(0, {reinterpret_cast<const std::byte*>(start.data()), start.size()}));
  if (ftruncate(writer->fd_, writer->begins_.back()) != 0) return CannotWrite(path);
  return writer;
}

absl::Status SafetensorsWriter::OpenTarget() {
  struct stat info;
  std::error_code error;
  if (stat(path_.c_str(), &info) == 0) {
    if (S_ISDIR(info.st_mode)) {
      return absl::InvalidArgumentError(absl::StrCat("cannot write ", path_, ": a directory"));
    }
    // A file that was deleted while open, as /dev/stdout may be, has no place to be replaced at.
    const std::filesystem::path target = std::filesystem::canonical(path_, error);
    if (!S_ISREG(info.st_mode) || error) return OpenInPlace();
    SHOAL_RETURN_IF_ERROR(OpenBeside(target.string()));
    return fchmod(fd_, info.st_mode & 07777) == 0 ? absl::OkStatus() : CannotWrite(temporary_);
  }
  if (errno != ENOENT) return CannotWrite(path_);
  // Absent, or a link to what is absent.
  std::filesystem::path target = path_;
  constexpr int kMostLinks = 40;
  for (int i = 0; i < kMostLinks && std::filesystem::is_symlink(target, error); ++i) {
    target = target.parent_path() / std::filesystem::read_symlink(target, error);
  }
  return OpenBeside(target.string());
}

absl::Status SafetensorsWriter::OpenBeside(const std::string& target) {
  target_ = target;
  temporary_ = absl::StrCat(target, ".tmp-", getpid());
  fd_ = open(temporary_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
  return fd_ >= 0 ? absl::OkStatus() : CannotWrite(temporary_);
}

// Rows come in any order and a pipe takes one only: they wait in a file without a name.
absl::Status SafetensorsWriter::OpenInPlace() {
  in_place_ = open(path_.c_str(), O_WRONLY | O_CLOEXEC);
  if (in_place_ < 0) return CannotWrite(path_);
  std::error_code error;
  std::string spool =
      (std::filesystem::temp_directory_path(error) / "shoal-output-XXXXXX").string();
  fd_ = mkostemp(spool.data(), O_CLOEXEC);
  if (fd_ < 0) return CannotWrite(spool);
  unlink(spool.c_str());
  return absl::OkStatus();
}

SafetensorsWriter::~SafetensorsWriter() {
  if (in_place_ >= 0) close(in_place_);
  if (fd_ < 0) return;
  close(fd_);
  if (!temporary_.empty()) std::remove(temporary_.c_str());
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
    if (written <= 0) return CannotWrite(path_);
    bytes.remove_prefix(static_cast<size_t>(written));
    offset += written;
  }
  return absl::OkStatus();
}

absl::Status SafetensorsWriter::CopyToTarget() {
  std::vector<std::byte> buffer(kCopyBytes);
  for (int64_t offset = 0; offset < begins_.back();) {
    const ssize_t count = pread(fd_, buffer.data(), buffer.size(), offset);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return CannotWrite(path_);
    offset += count;
    for (ssize_t done = 0; done < count;) {
      const ssize_t written = write(in_place_, buffer.data() + done, count - done);
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) return CannotWrite(path_);
      done += written;
    }
  }
  const int fd = in_place_;
  in_place_ = -1;
  return close(fd) == 0 ? absl::OkStatus() : CannotWrite(path_);
}

absl::Status SafetensorsWriter::Finish() {
  if (target_.empty()) return CopyToTarget();
  const int fd = fd_;
  fd_ = -1;
  if (close(fd) != 0 || std::rename(temporary_.c_str(), target_.c_str()) != 0) {
    absl::Status status = CannotWrite(path_);
    std::remove(temporary_.c_str());
    return status;
  }
  return absl::OkStatus();
}

}  // namespace shoal
