// SPDX-License-Identifier: Apache-2.0
#include "engine/device/cpu/memory.h"

#include <sys/mman.h>

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"

namespace shoal::cpu {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

constexpr size_t RoundUp(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

}  // namespace

absl::StatusOr<std::unique_ptr<Pages>> Pages::Map(size_t bytes, const char* what) {
  const auto exhausted = [&] {
    return absl::ResourceExhaustedError(
        absl::StrCat(what, ": want ", bytes, " bytes of host memory"));
  };
  if (bytes > SIZE_MAX / 2) return exhausted();
  // Small buffers take whole small pages only.
  const size_t unit = bytes >= kHugePage ? kHugePage : 4096;
  const size_t size = RoundUp(bytes == 0 ? 1 : bytes, unit);
  const size_t mapped = size + unit;
  void* base = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) return exhausted();
  // Keep the aligned part of what was mapped.
  auto* begin = static_cast<std::byte*>(base);
  const size_t skip =
      RoundUp(reinterpret_cast<uintptr_t>(begin), unit) - reinterpret_cast<uintptr_t>(begin);
  if (skip > 0) munmap(begin, skip);
  munmap(begin + skip + size, unit - skip);
  if (unit == kHugePage) madvise(begin + skip, size, MADV_HUGEPAGE);  // advice: may be refused
  return std::unique_ptr<Pages>(new Pages(begin + skip, bytes, size));
}

Pages::~Pages() { munmap(data_, mapped_); }

absl::StatusOr<Piece> Arena::Allocate(size_t bytes) {
  const size_t size = RoundUp(bytes, 64);
  if (size > kChunkBytes / 4) {
    SHOAL_ASSIGN_OR_RETURN(std::shared_ptr<const Pages> own, Pages::Map(size, "weight"));
    return Piece{own->data(), std::move(own)};
  }
  std::lock_guard<std::mutex> lock(mutex_);
  if (chunk_ == nullptr || used_ + size > chunk_->bytes()) {
    SHOAL_ASSIGN_OR_RETURN(chunk_, Pages::Map(kChunkBytes, "weights"));
    used_ = 0;
  }
  std::byte* data = chunk_->data() + used_;
  used_ += size;
  return Piece{data, chunk_};
}

std::byte* Scratch::Get(size_t bytes) {
  if (pages_ == nullptr || pages_->bytes() < bytes) SHOAL_CHECK(Reserve(bytes).ok());
  return pages_->data();
}

absl::Status Scratch::Reserve(size_t bytes) {
  if (pages_ != nullptr && pages_->bytes() >= bytes) return absl::OkStatus();
  pages_.reset();
  SHOAL_ASSIGN_OR_RETURN(pages_, Pages::Map(bytes, "scratch"));
  return absl::OkStatus();
}

}  // namespace shoal::cpu
