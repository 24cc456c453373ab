// SPDX-License-Identifier: Apache-2.0
#include "comm/shm/segment.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"

namespace shoal {
namespace {

constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;

absl::Status Exhausted(absl::string_view what, size_t bytes) {
  return absl::ResourceExhaustedError(
      absl::StrCat("shared memory of ", bytes, " bytes: ", what, ": ", std::strerror(errno)));
}

absl::StatusOr<Lane> Map(int fd, size_t bytes, size_t max_message_bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) return Exhausted("mmap", bytes);
  // Where the kernel allows it for shared memory, large messages then fault in 2 MB at a time. Else
  // no harm.
  madvise(memory, bytes, MADV_HUGEPAGE);
  const auto unmap = [bytes](std::byte* mapped) { munmap(mapped, bytes); };
  return Lane(std::shared_ptr<std::byte>(static_cast<std::byte*>(memory), unmap),
              max_message_bytes);
}

}  // namespace

absl::StatusOr<Segment> CreateSegment(size_t max_message_bytes) {
  SHOAL_ASSIGN_OR_RETURN(const size_t bytes, Lane::Bytes(max_message_bytes));
  Segment segment;
  segment.fd = UniqueFd(memfd_create("shoal-lane", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!segment.fd) return Exhausted("memfd_create", bytes);
  if (ftruncate(segment.fd.get(), static_cast<off_t>(bytes)) != 0)
    return Exhausted("ftruncate", bytes);
  if (fcntl(segment.fd.get(), F_ADD_SEALS, kSeals) != 0) return Exhausted("sealing", bytes);
  SHOAL_ASSIGN_OR_RETURN(segment.lane, Map(segment.fd.get(), bytes, max_message_bytes));
  return segment;
}

absl::StatusOr<Lane> MapSegment(const UniqueFd& fd, size_t max_message_bytes) {
  SHOAL_ASSIGN_OR_RETURN(const size_t bytes, Lane::Bytes(max_message_bytes));
  struct stat status = {};
  const int seals = fcntl(fd.get(), F_GET_SEALS);
  if (seals < 0 || (seals & kSeals) != kSeals || fstat(fd.get(), &status) != 0 ||
      static_cast<size_t>(status.st_size) != bytes) {
    return absl::DataLossError(absl::StrCat("what came is no sealed lane of ", bytes, " bytes"));
  }
  return Map(fd.get(), bytes, max_message_bytes);
}

}  // namespace shoal
