// SPDX-License-Identifier: Apache-2.0
#include "engine/weights/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/base/status_macros.h"
#include "engine/config/json_internal.h"

namespace shoal {
namespace {

// The format's own limit; a longer header is no header.
constexpr uint64_t kMaxHeaderBytes = 100'000'000;
// Linux's default window, and a multiple of every page size.
constexpr size_t kFaultAroundBytes = 64 << 10;

std::optional<DType> DTypeFromName(absl::string_view name) {
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kF8E4M3, DType::kF8E8M0,
                      DType::kI8, DType::kI32, DType::kI64}) {
    if (DTypeName(dtype) == name) return dtype;
  }
  return std::nullopt;
}

bool AsSize(const nlohmann::json& value, int64_t* out) {
  if (!value.is_number_unsigned()) return false;
  const uint64_t number = value.get<uint64_t>();
  if (number > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return false;
  *out = static_cast<int64_t>(number);
  return true;
}

absl::StatusOr<TensorEntry> ParseEntry(const nlohmann::json& json, int64_t data_bytes) {
  const auto fail = [](auto&&... what) {
    return absl::InvalidArgumentError(absl::StrCat(what...));
  };
  TensorEntry entry;
  if (!json.is_object() || !json.contains("dtype") || !json["dtype"].is_string() ||
      !json.contains("shape") || !json["shape"].is_array() || !json.contains("data_offsets") ||
      !json["data_offsets"].is_array() || json["data_offsets"].size() != 2) {
    return fail("want dtype, shape and two data_offsets");
  }
  entry.dtype_name = json["dtype"].get<std::string>();
  entry.dtype = DTypeFromName(entry.dtype_name);
  int64_t elements = 1;
  for (const nlohmann::json& item : json["shape"]) {
    int64_t dim = 0;
    if (!AsSize(item, &dim)) return fail("shape: want sizes, found ", json["shape"].dump());
    if (__builtin_mul_overflow(elements, dim, &elements)) {
      return fail("shape ", json["shape"].dump(), " overflows");
    }
    entry.shape.push_back(dim);
  }
  if (!AsSize(json["data_offsets"][0], &entry.begin) ||
      !AsSize(json["data_offsets"][1], &entry.end) || entry.begin > entry.end) {
    return fail("data_offsets: want ascending sizes, found ", json["data_offsets"].dump());
  }
  if (entry.end > data_bytes) {
    return fail("truncated: its data end at byte ", entry.end, ", the file holds ", data_bytes);
  }
  if (entry.dtype.has_value()) {
    int64_t bytes = 0;
    if (__builtin_mul_overflow(elements, static_cast<int64_t>(DTypeBytes(*entry.dtype)), &bytes) ||
        bytes != entry.bytes()) {
      return fail("want ", elements, " elements of ", entry.dtype_name, ", found ", entry.bytes(),
                  " bytes");
    }
  }
  return entry;
}

// Every byte of the data belongs to exactly one tensor.
absl::Status CheckCoverage(const std::map<std::string, TensorEntry>& tensors, int64_t data_bytes) {
  std::vector<std::pair<const std::string*, const TensorEntry*>> order;
  for (const auto& [name, entry] : tensors) order.emplace_back(&name, &entry);
  std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
    return std::pair(a.second->begin, a.second->end) < std::pair(b.second->begin, b.second->end);
  });
  int64_t covered = 0;
  for (const auto& [name, entry] : order) {
    if (entry->begin != covered) {
      return absl::InvalidArgumentError(absl::StrCat(
          *name, entry->begin < covered ? ": overlaps another tensor" : ": follows a gap",
          ": want data from byte ", covered, ", found ", entry->begin));
    }
    covered = entry->end;
  }
  if (covered != data_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("want ", covered, " bytes of data, found ", data_bytes));
  }
  return absl::OkStatus();
}

absl::Status ErrnoStatus(absl::string_view what, const std::string& path) {
  const int error = errno;
  return absl::ErrnoToStatus(error, absl::StrCat(what, " ", path));
}

}  // namespace

std::string TensorEntry::ToString() const {
  const std::string name = dtype.has_value() ? std::string(DTypeName(*dtype)) : dtype_name;
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "] ", name);
}

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Open(const std::string& path) {
  std::unique_ptr<SafetensorsFile> file(new SafetensorsFile());
  file->path_ = path;
  SHOAL_RETURN_IF_ERROR(file->Map());
  if (absl::Status status = file->ParseHeader(); !status.ok()) {
    return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
  }
  file->DropRange(0, file->data_offset_);
  return file;
}

absl::Status SafetensorsFile::Map() {
  fd_ = open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd_ < 0) return ErrnoStatus("cannot open", path_);
  struct stat info;
  if (fstat(fd_, &info) != 0) return ErrnoStatus("cannot stat", path_);
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(path_, ": not a regular file"));
  }
  file_bytes_ = static_cast<size_t>(info.st_size);
  if (file_bytes_ < 8) {
    return absl::InvalidArgumentError(
        absl::StrCat(path_, ": truncated: want at least 8 bytes, found ", file_bytes_));
  }
  void* map = mmap(nullptr, file_bytes_, PROT_READ, MAP_PRIVATE, fd_, 0);
  if (map == MAP_FAILED) return ErrnoStatus("cannot map", path_);
  map_ = static_cast<std::byte*>(map);
  return absl::OkStatus();
}

SafetensorsFile::~SafetensorsFile() {
  if (map_ != nullptr) munmap(map_, file_bytes_);
  if (fd_ >= 0) close(fd_);
}

absl::Status SafetensorsFile::ParseHeader() {
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, map_, sizeof(header_bytes));
  if (header_bytes > kMaxHeaderBytes || header_bytes > file_bytes_ - 8) {
    return absl::InvalidArgumentError(absl::StrCat(
        "truncated: its header says it has ", header_bytes, " bytes, the file has ", file_bytes_));
  }
  data_offset_ = 8 + header_bytes;
  const int64_t data_bytes = static_cast<int64_t>(file_bytes_ - data_offset_);
  SHOAL_ASSIGN_OR_RETURN(const nlohmann::json json,
                         ParseJson({reinterpret_cast<const char*>(map_) + 8, header_bytes}));
  if (!json.is_object()) return absl::InvalidArgumentError("its header is not a JSON object");
  for (const auto& [name, value] : json.items()) {
    if (name == "__metadata__") continue;
    auto entry = ParseEntry(value, data_bytes);
    if (!entry.ok()) {
      return absl::InvalidArgumentError(absl::StrCat(name, ": ", entry.status().message()));
    }
    tensors_.emplace(name, *std::move(entry));
  }
  return CheckCoverage(tensors_, data_bytes);
}

absl::Span<const std::byte> SafetensorsFile::Data(const TensorEntry& entry) const {
  return {map_ + data_offset_ + entry.begin, static_cast<size_t>(entry.bytes())};
}

absl::Status SafetensorsFile::Read(const TensorEntry& entry, int64_t offset,
                                   absl::Span<std::byte> out) const {
  size_t done = 0;
  while (done < out.size()) {
    const auto position = static_cast<off_t>(data_offset_ + entry.begin + offset + done);
    const ssize_t read = pread(fd_, out.data() + done, out.size() - done, position);
    if (read < 0 && errno == EINTR) continue;
    if (read < 0) return ErrnoStatus("cannot read", path_);
    if (read == 0) return absl::DataLossError(absl::StrCat(path_, ": has become shorter"));
    done += static_cast<size_t>(read);
  }
  return absl::OkStatus();
}

void SafetensorsFile::DropPages(const TensorEntry& entry) const {
  DropRange(data_offset_ + entry.begin, data_offset_ + entry.end);
}

void SafetensorsFile::DropRange(size_t begin, size_t end) const {
  // With what the kernel maps around a fault. A neighbour's page that goes too is read again when
  // needed.
  begin = begin / kFaultAroundBytes * kFaultAroundBytes;
  end = (end + kFaultAroundBytes - 1) / kFaultAroundBytes * kFaultAroundBytes;
  end = std::min(file_bytes_, end);
  if (end > begin) madvise(map_ + begin, end - begin, MADV_DONTNEED);
}

}  // namespace shoal
