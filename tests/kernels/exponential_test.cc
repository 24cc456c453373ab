// SPDX-License-Identifier: Apache-2.0
// Holds the exponentials of every instruction set to the error they state: 3e-7 relative over the
// whole range where the result is a normal number, and to what they promise outside it.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "engine/device/cpu/simd/isa.h"

namespace shoal {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

template <typename Check>
void ForEachIsa(const Check& check) {
  const cpu::IsaList list = cpu::SupportedIsas();
  for (int i = 0; i < list.count; ++i) {
    SCOPED_TRACE(list.isas[i]->name);
    check(*list.isas[i]);
  }
}

TEST(ExponentialTest, Exp) {
  std::vector<float> x;
  for (float value = -87.0f; value < 87.9f; value += 0.000937f) x.push_back(value);
  std::vector<float> y(x.size());
  ForEachIsa([&](const cpu::Isa& isa) {
    isa.exp_minus(x.data(), 0, static_cast<int64_t>(x.size()), y.data());
    for (size_t i = 0; i < x.size(); ++i) {
      const double want = std::exp(static_cast<double>(x[i]));
      ASSERT_NEAR(y[i], want, 3e-7 * want) << x[i];
    }
    const float edges[] = {0, -0.0f, -1000, -kInfinity, NAN};
    float out[5];
    isa.exp_minus(edges, 0, 5, out);
    EXPECT_EQ(out[0], 1);
    EXPECT_EQ(out[1], 1);
    EXPECT_EQ(out[2], 0);
    EXPECT_EQ(out[3], 0);
    EXPECT_TRUE(std::isnan(out[4]));
  });
}

TEST(ExponentialTest, SigmoidAndSilu) {
  std::vector<float> x;
  for (float value = -100; value < 100; value += 0.00137f) x.push_back(value);
  x.insert(x.end(), {-1e30f, 1e30f, -kInfinity, kInfinity});
  const auto n = static_cast<int64_t>(x.size());
  std::vector<float> y(x.size()), gate(x.size());
  const std::vector<float> up(x.size(), 2.0f);
  ForEachIsa([&](const cpu::Isa& isa) {
    isa.sigmoid(x.data(), n, y.data());
    gate = x;
    isa.silu_mul(gate.data(), up.data(), n);
    for (int64_t i = 0; i < n - 4; ++i) {
      const double sigmoid = 1 / (1 + std::exp(-static_cast<double>(x[i])));
      // Below e^-87 the results are zero or nearly.
      ASSERT_NEAR(y[i], sigmoid, 4e-7 * sigmoid + 1e-37) << x[i];
      ASSERT_NEAR(gate[i], 2 * x[i] * sigmoid, 6e-7 * std::fabs(2 * x[i] * sigmoid) + 1e-35)
          << x[i];
    }
    EXPECT_NEAR(y[n - 4], 0, 1e-37);
    EXPECT_EQ(y[n - 3], 1);
    EXPECT_NEAR(y[n - 2], 0, 1e-37);
    EXPECT_EQ(y[n - 1], 1);
    EXPECT_EQ(gate[n - 3], 2e30f);
    EXPECT_EQ(gate[n - 1], kInfinity);
  });
}

}  // namespace
}  // namespace shoal
