// SPDX-License-Identifier: Apache-2.0
// A message of simulated workers, and the memory that messages are made of.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <memory>
#include <new>
#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "comm/message_header.h"
#include "engine/base/ids.h"

namespace shoal::sim {

inline constexpr size_t kMessageAlign = 64;  // bytes, as comm/fabric.h promises

// Messages' memory is used again by messages: millions of them in pieces would make the heap, and
// with it the core that is being measured, slower than any coordinator's.
class BytePool {
 public:
  ~BytePool() {
    for (std::vector<std::byte*>& free : free_) {
      for (std::byte* bytes : free) ::operator delete(bytes, std::align_val_t(kMessageAlign));
    }
  }
  std::byte* Take(int size_class) {
    std::vector<std::byte*>& free = free_[size_class];
    if (free.empty()) {
      return static_cast<std::byte*>(
          ::operator new (size_t{1} << size_class, std::align_val_t(kMessageAlign)));
    }
    std::byte* const bytes = free.back();
    free.pop_back();
    return bytes;
  }
  void Give(std::byte* bytes, int size_class) { free_[size_class].push_back(bytes); }

 private:
  std::array<std::vector<std::byte*>, 40> free_;  // by the logarithm of their size
};
inline thread_local BytePool byte_pool;

struct GiveBack {
  int size_class = 0;
  void operator()(std::byte* bytes) const { byte_pool.Give(bytes, size_class); }
};
using AlignedBytes = std::unique_ptr<std::byte, GiveBack>;

inline AlignedBytes NewBytes(size_t size) {
  const int size_class = std::bit_width(std::max<size_t>(size, 128) - 1);
  return AlignedBytes(byte_pool.Take(size_class), GiveBack{size_class});
}

// A message under way or arrived: header and rows, aligned as the port promises.
struct Message {
  AlignedBytes bytes;
  size_t size = 0;
  Epoch epoch;
  absl::Time arrival;

  absl::Span<const std::byte> all() const { return {bytes.get(), size}; }
  absl::Span<const std::byte> rows() const { return all().subspan(kMessageHeaderBytes); }
};

}  // namespace shoal::sim
