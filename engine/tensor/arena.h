// SPDX-License-Identifier: Apache-2.0
// Scratch for one step: tensors handed out one after the other from memory sized at start, all
// taken back at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "engine/base/check.h"
#include "engine/tensor/tensor.h"

namespace shoal {

// Bumps a pointer; owns nothing. Running out is our own bug: whoever sizes the arena counts the
// same tensors, and a default-constructed arena is how it counts them.
class Arena {
 public:
  static constexpr size_t kAlignment = 64;

  // Hands out null tensors and only counts.
  Arena() = default;
  Arena(void* memory, size_t bytes) : memory_(static_cast<std::byte*>(memory)), capacity_(bytes) {}

  TensorView New(DType dtype, std::initializer_list<int64_t> shape) {
    const TensorView view(memory_ ? memory_ + used_ : nullptr, dtype, shape);
    used_ += (view.bytes() + kAlignment - 1) / kAlignment * kAlignment;
    SHOAL_CHECK(memory_ == nullptr || used_ <= capacity_);
    if (used_ > peak_) peak_ = used_;
    return view;
  }

  // Where the arena stands; Rewind(mark) takes back everything handed out since.
  size_t mark() const { return used_; }
  void Rewind(size_t mark) { used_ = mark; }
  size_t peak() const { return peak_; }  // most bytes ever in use at once

 private:
  std::byte* memory_ = nullptr;
  size_t capacity_ = 0;
  size_t used_ = 0;
  size_t peak_ = 0;
};

}  // namespace shoal
