// SPDX-License-Identifier: Apache-2.0
// What the kernel tests share: owned random tensors, every backend of this build on this machine,
// and the reference to compare with.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "engine/device/kernels.h"

namespace shoal::testing {

// Owns what a TensorView views; 64-byte aligned.
class Tensor {
 public:
  Tensor() = default;
  Tensor(DType dtype, std::initializer_list<int64_t> shape);
  TensorView view() const { return view_; }
  operator TensorView() const { return view_; }  // NOLINT(google-explicit-constructor)
  float At(int64_t i) const;                     // element i, as f32
  void Set(int64_t i, float value);              // rounded to the dtype
  // Bits of elements [first, first + count).
  std::string Bits(int64_t first, int64_t count) const;

 private:
  std::shared_ptr<std::byte[]> data_;
  TensorView view_;
};

// Values are normal with the given deviation, rounded to the dtype.
Tensor Random(std::mt19937& random, DType dtype, std::initializer_list<int64_t> shape,
              float deviation = 1.0f);
// The same values in another dtype, rounded if need be.
Tensor As(const Tensor& tensor, DType dtype);

// A quantised weight: random E4M3 codes (NaN excepted) and block scales around `deviation`.
struct Weight {
  Tensor data;
  Tensor scales;
  QuantTensor quant;
};
Weight RandomWeight(std::mt19937& random, DType dtype, int64_t rows, int64_t cols, float deviation,
                    DType scale_dtype = DType::kF32, int block = 128);

// One instruction set of the CPU backend, or whatever other backend this build has.
struct Backend {
  friend std::ostream& operator<<(std::ostream& os, const Backend& b) { return os << b.name; }
  std::string name;
  std::unique_ptr<Kernels> Make(int threads) const;
};
std::vector<Backend> Backends();
std::string BackendName(const ::testing::TestParamInfo<Backend>& info);
std::unique_ptr<Kernels> Reference();

// The error that two f32 sums of n products may differ by, for vectors of these norms: rounding
// errors of a chain add like a random walk, so sqrt(n) eps |a| |b| with a factor that makes an
// excess impossible in practice (8 deviations).
inline float SumTolerance(int64_t n, float norm_a, float norm_b) {
  return 8 * std::sqrt(static_cast<float>(n)) * 0x1p-24f * norm_a * norm_b;
}
// Half a unit in the last place of bf16, which has 8 significant bits.
inline float BF16Tolerance(float value) { return 0x1p-8f * std::fabs(value) * 1.01f; }
float Norm(const Tensor& tensor, int64_t first, int64_t count);

}  // namespace shoal::testing
