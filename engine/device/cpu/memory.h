// SPDX-License-Identifier: Apache-2.0
// Host memory in huge pages: weights are read once per token from end to end, and with 4 KiB pages
// the address translation would cost more than the data.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/status/statusor.h"

namespace shoal::cpu {

// A mapping of its own: zeroed, 2 MiB-aligned, huge pages where the system grants them.
class Pages {
 public:
  // Errors: ResourceExhausted naming `what` and the bytes wanted.
  static absl::StatusOr<std::unique_ptr<Pages>> Map(size_t bytes, const char* what);
  ~Pages();
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;

  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  Pages(std::byte* data, size_t bytes, size_t mapped)
      : data_(data), bytes_(bytes), mapped_(mapped) {}

  std::byte* data_;
  size_t bytes_;
  size_t mapped_;
};

// A piece of a shared mapping, kept alive by those who hold pieces of it.
struct Piece {
  std::byte* data = nullptr;
  std::shared_ptr<const Pages> pages;
};

// Lays many weights side by side, so that a matrix of 5.5 MiB does not cost 6. Thread-safe.
class Arena {
 public:
  // 64-byte aligned, zeroed. Errors as Pages::Map.
  absl::StatusOr<Piece> Allocate(size_t bytes);

 private:
  static constexpr size_t kChunkBytes = size_t{64} << 20;

  std::mutex mutex_;
  std::shared_ptr<const Pages> chunk_;  // being filled
  size_t used_ = 0;
};

// Scratch of one kind that grows to the largest size asked for; contents are lost when it grows.
class Scratch {
 public:
  // At least `bytes`, 64-byte aligned. Maps memory only when it must grow; without memory the
  // process ends, since no operation can report it: Reserve asks for everything a model needs, and
  // reports.
  std::byte* Get(size_t bytes);
  absl::Status Reserve(size_t bytes);

 private:
  std::unique_ptr<Pages> pages_;
};

}  // namespace shoal::cpu
