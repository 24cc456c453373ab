// SPDX-License-Identifier: Apache-2.0
// A view of a dense, row-major array: pointer, dtype, up to four dimensions. Never owns. The
// pointer belongs to the device that made it; only host backends may follow it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "engine/base/check.h"
#include "engine/tensor/dtype.h"

namespace shoal {

class TensorView {
 public:
  static constexpr int kMaxRank = 4;

  TensorView() = default;
  TensorView(void* data, DType dtype, std::initializer_list<int64_t> shape)
      : data_(data), dtype_(dtype) {
    SHOAL_CHECK(shape.size() <= kMaxRank);
    for (int64_t dim : shape) shape_[rank_++] = dim;
  }

  int rank() const { return rank_; }
  int64_t dim(int i) const { return shape_[i]; }
  DType dtype() const { return dtype_; }
  int64_t elements() const {
    int64_t n = 1;
    for (int i = 0; i < rank_; ++i) n *= shape_[i];
    return n;
  }
  size_t bytes() const { return static_cast<size_t>(elements()) * DTypeBytes(dtype_); }
  // Elements of one index of dimension 0.
  int64_t row_elements() const { return dim(0) == 0 ? 0 : elements() / dim(0); }

  void* data() const { return data_; }
  // The elements, as T: the caller asserts that T is the dtype's storage type.
  template <typename T>
  T* as() const {
    SHOAL_DCHECK(sizeof(T) == DTypeBytes(dtype_));
    return static_cast<T*>(data_);
  }
  float* f32() const {
    SHOAL_CHECK(dtype_ == DType::kF32);
    return static_cast<float*>(data_);
  }
  // Rows [begin, begin+count) of dimension 0.
  TensorView Rows(int64_t begin, int64_t count) const {
    SHOAL_DCHECK(begin >= 0 && begin + count <= dim(0));
    TensorView view = *this;
    int64_t row = 1;
    for (int i = 1; i < rank_; ++i) row *= shape_[i];
    view.data_ =
        static_cast<std::byte*>(data_) + begin * row * static_cast<int64_t>(DTypeBytes(dtype_));
    view.shape_[0] = count;
    return view;
  }
  // The same elements in another shape.
  TensorView Reshape(std::initializer_list<int64_t> shape) const {
    TensorView view(data_, dtype_, shape);
    SHOAL_CHECK(view.elements() == elements());
    return view;
  }
  std::string ToString() const;  // "[12, 7168] bf16"

 private:
  void* data_ = nullptr;
  DType dtype_ = DType::kF32;
  int rank_ = 0;
  std::array<int64_t, kMaxRank> shape_ = {0, 0, 0, 0};
};

}  // namespace shoal
