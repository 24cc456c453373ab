// SPDX-License-Identifier: Apache-2.0
#include "engine/weights/finite.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/tensor/quant_tensor.h"

namespace shoal {
namespace {

constexpr int64_t kPiece = 4096;  // elements between two looks at what was found

// A value whose magnitude bits, raised by `kStep`, carry into the sign's place is none. `kMagnitude`
// masks off the sign, or nothing where there is no sign.
template <typename Bits, Bits kMagnitude, Bits kStep>
struct Carries {
  static constexpr Bits kTop = static_cast<Bits>(Bits{1} << (8 * sizeof(Bits) - 1));
  static Bits Of(Bits bits) {
    return static_cast<Bits>(static_cast<Bits>(bits & kMagnitude) + kStep) & kTop;
  }
  static int64_t First(const Bits* values, int64_t count) {
    for (int64_t begin = 0; begin < count; begin += kPiece) {
      const int64_t end = std::min(begin + kPiece, count);
      Bits found = 0;  // a plain loop without branches: the compiler makes vectors of it
      for (int64_t i = begin; i < end; ++i) found |= Of(values[i]);
      if (found == 0) continue;
      for (int64_t i = begin; i < end; ++i) {
        if (Of(values[i]) != 0) return i;
      }
    }
    return -1;
  }
};

int64_t FirstOfCode(const uint8_t* values, int64_t count, uint8_t code) {
  const uint8_t* found = std::find(values, values + count, code);
  return found == values + count ? -1 : found - values;
}

}  // namespace

int64_t FirstNonFinite(TensorView tensor) {
  const int64_t n = tensor.elements();
  switch (tensor.dtype()) {
    case DType::kBF16:
      return Carries<uint16_t, 0x7fff, 0x80>::First(tensor.as<uint16_t>(), n);
    case DType::kF16:
      return Carries<uint16_t, 0x7fff, 0x400>::First(tensor.as<uint16_t>(), n);
    case DType::kF32:
      return Carries<uint32_t, 0x7fffffff, 0x800000>::First(tensor.as<uint32_t>(), n);
    case DType::kF8E4M3:
      return Carries<uint8_t, 0x7f, 1>::First(tensor.as<uint8_t>(), n);
    case DType::kF8E8M0:
      return FirstOfCode(tensor.as<uint8_t>(), n, 0xff);
    default:
      SHOAL_CHECK(false);  // no floating-point tensor
  }
  return -1;
}

std::string DescribeNonFinite(absl::string_view name, TensorView tensor, int64_t index) {
  float value = 0;
  LoadAsFloat(tensor, index, 1, &value);
  const char* what = std::isnan(value) ? "NaN" : value > 0 ? "infinity" : "-infinity";
  const std::string place =
      tensor.rank() == 1 ? absl::StrCat(index)
                         : absl::StrCat(index / tensor.dim(1), ", ", index % tensor.dim(1));
  return absl::StrCat(name, ": holds ", what, " at [", place, "]");
}

}  // namespace shoal
