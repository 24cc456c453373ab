// SPDX-License-Identifier: Apache-2.0
// Shows that scalar conversions are right for every code, by enumerating them all against
// definitions computed in double, and that a quantised weight dequantises with partial edge blocks.
#include "engine/tensor/dtype.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "engine/tensor/arena.h"
#include "engine/tensor/quant_tensor.h"
#include "gtest/gtest.h"

namespace shoal {
namespace {

double E4M3Definition(int code) {
  const int exponent = (code >> 3) & 15;
  const int mantissa = code & 7;
  const double sign = code & 0x80 ? -1 : 1;
  return exponent == 0 ? sign * mantissa / 8.0 * std::pow(2, -6)
                       : sign * (1 + mantissa / 8.0) * std::pow(2, exponent - 7);
}

TEST(DType, EveryE4M3CodeRoundTrips) {
  for (int code = 0; code < 256; ++code) {
    const float value = E4M3ToFloat(static_cast<uint8_t>(code));
    if ((code & 0x7F) == 0x7F) {
      EXPECT_TRUE(std::isnan(value)) << code;
      continue;
    }
    EXPECT_EQ(value, E4M3Definition(code)) << code;
    EXPECT_EQ(FloatToE4M3(value), code);
  }
}

TEST(DType, E4M3RoundsToNearestEvenBetweenAllNeighbours) {
  for (int code = 0; code < 0x7E; ++code) {
    const double low = E4M3Definition(code);
    const double high = E4M3Definition(code + 1);
    const float middle = static_cast<float>((low + high) / 2);  // exact: one more bit
    EXPECT_EQ(FloatToE4M3(middle), code % 2 == 0 ? code : code + 1) << code;
    EXPECT_EQ(FloatToE4M3(std::nextafter(middle, 0.0f)), code);
    EXPECT_EQ(FloatToE4M3(std::nextafter(middle, 1e9f)), code + 1);
    EXPECT_EQ(FloatToE4M3(-std::nextafter(middle, 1e9f)), (code + 1) | 0x80);
  }
  EXPECT_EQ(FloatToE4M3(1e30f), 0x7E);
  EXPECT_EQ(FloatToE4M3(-std::numeric_limits<float>::infinity()), 0xFE);
  EXPECT_EQ(FloatToE4M3(std::numeric_limits<float>::quiet_NaN()) & 0x7F, 0x7F);
  EXPECT_EQ(FloatToE4M3(-0.0f), 0x80);
}

TEST(DType, E8M0IsAPowerOfTwo) {
  for (int code = 0; code < 255; ++code) {
    EXPECT_EQ(E8M0ToFloat(static_cast<uint8_t>(code)),
              static_cast<float>(std::pow(2.0, code - 127)));
  }
  EXPECT_TRUE(std::isnan(E8M0ToFloat(0xFF)));
}

TEST(DType, EveryBF16CodeRoundTripsAndMidpointsGoToEven) {
  for (uint32_t code = 0; code < 0x10000; ++code) {
    const float value = BF16ToFloat(static_cast<uint16_t>(code));
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(BF16ToFloat(FloatToBF16(value))));
      continue;
    }
    EXPECT_EQ(FloatToBF16(value), code);
    if ((code & 0x7FFF) >= 0x7F7F) continue;
    const float next = BF16ToFloat(static_cast<uint16_t>(code + 1));
    const float middle = static_cast<float>((static_cast<double>(value) + next) / 2);
    EXPECT_EQ(FloatToBF16(middle), code % 2 == 0 ? code : code + 1);
  }
}

TEST(DType, EveryF16Code) {
  for (uint32_t code = 0; code < 0x10000; ++code) {
    const int exponent = (code >> 10) & 31;
    const double sign = code & 0x8000 ? -1 : 1;
    const double mantissa = code & 1023;
    const float value = F16ToFloat(static_cast<uint16_t>(code));
    if (exponent == 31) {
      EXPECT_EQ(std::isnan(value), mantissa != 0);
      continue;
    }
    const double wanted = exponent == 0 ? sign * mantissa * std::pow(2, -24)
                                        : sign * (1 + mantissa / 1024) * std::pow(2, exponent - 15);
    EXPECT_EQ(value, wanted) << code;
  }
}

TEST(QuantTensor, PartialEdgeBlocksTakeTheirOwnScale) {
  // 3 x 5 values of 1.0 in 2 x 4 blocks: scales 2 x 2, the last row and column partial.
  std::vector<uint8_t> data(15, FloatToE4M3(1.0f));
  std::vector<float> scales = {1, 2, 3, 4};
  QuantTensor weight{TensorView(data.data(), DType::kF8E4M3, {3, 5}),
                     TensorView(scales.data(), DType::kF32, {2, 2}), 2, 4};
  std::vector<float> out(15);
  Dequantise(weight, TensorView(out.data(), DType::kF32, {3, 5}));
  EXPECT_EQ(out, (std::vector<float>{1, 1, 1, 1, 2, 1, 1, 1, 1, 2, 3, 3, 3, 3, 4}));

  std::vector<uint8_t> exponents = {127, 128, 126, 130};
  weight.scales = TensorView(exponents.data(), DType::kF8E8M0, {2, 2});
  Dequantise(weight, TensorView(out.data(), DType::kF32, {3, 5}));
  EXPECT_EQ(out, (std::vector<float>{1, 1, 1, 1, 2, 1, 1, 1, 1, 2, .5, .5, .5, .5, 8}));
}

TEST(Arena, CountsBeforeItHandsOut) {
  Arena counter;
  counter.New(DType::kF32, {3, 5});
  const size_t mark = counter.mark();
  counter.New(DType::kBF16, {100});
  counter.Rewind(mark);
  counter.New(DType::kF32, {1});
  EXPECT_EQ(counter.peak(), 64u + 256u);

  alignas(64) std::byte memory[320];
  Arena arena(memory, sizeof(memory));
  EXPECT_EQ(arena.New(DType::kF32, {3, 5}).data(), memory);
  EXPECT_EQ(arena.New(DType::kBF16, {100}).data(), memory + 64);
}

}  // namespace
}  // namespace shoal
