// SPDX-License-Identifier: Apache-2.0
// Shows that attention is the reference's: rows into the cache, absorbed queries, products per
// head, and attention over paged rows for block sizes that tiles divide, straddle and exceed, with
// lengths around every boundary.
//
// Tolerance of attention: a weight enters as two bf16 values, which leave less than 2^-16 of it, and
// a score error of d moves a weight by d of itself: both move the weighted mean of rows by 2^-13 of
// their spread at most; outputs are rounded to bf16.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "tests/kernels/backends.h"

namespace shoal {
namespace {

using testing::Backend;
using testing::Tensor;
using testing::Weight;

struct Rope {
  explicit Rope(int dim, int64_t positions) : cos(positions * dim / 2), sin(cos.size()) {
    for (int64_t p = 0; p < positions; ++p) {
      for (int i = 0; i < dim / 2; ++i) {
        const double angle = static_cast<double>(p) * std::pow(10000.0, -2.0 * i / dim);
        cos[p * dim / 2 + i] = static_cast<float>(std::cos(angle));
        sin[p * dim / 2 + i] = static_cast<float>(std::sin(angle));
      }
    }
    table = {cos, sin, dim};
  }
  std::vector<float> cos, sin;
  RopeTable table;
};

class MlaTest : public ::testing::TestWithParam<Backend> {
 protected:
  struct Sequence {
    int64_t start, rows;
  };

  // Attention of `sequences`, whose blocks lie shuffled in the pool, against the reference on the
  // same rounded numbers.
  void CheckAttend(int64_t heads, int64_t latent, int64_t rope, int block_tokens,
                   const std::vector<Sequence>& sequences) {
    SCOPED_TRACE(::testing::Message()
                 << heads << " heads, " << latent << "+" << rope << ", blocks of " << block_tokens);
    const int64_t width = latent + rope;
    std::vector<std::vector<BlockId>> tables;
    int32_t blocks = 0;
    for (const Sequence& s : sequences)
      blocks += (s.start + s.rows + block_tokens - 1) / block_tokens;
    std::vector<int32_t> order(blocks + 1);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random_);
    int32_t next = 0;
    std::vector<AttendSequence> attend;
    int32_t row = 0;
    for (const Sequence& s : sequences) {
      tables.emplace_back();
      for (int64_t i = 0; i < (s.start + s.rows + block_tokens - 1) / block_tokens; ++i) {
        tables.back().emplace_back(order[next++]);
      }
      attend.push_back({row, static_cast<int32_t>(s.rows), static_cast<int32_t>(s.start), {}});
      row += static_cast<int32_t>(s.rows);
    }
    for (size_t i = 0; i < attend.size(); ++i) attend[i].block_table = tables[i];
    const int64_t pool_rows = static_cast<int64_t>(blocks + 1) * block_tokens;
    Tensor pool = testing::Random(random_, DType::kBF16, {pool_rows, width});
    // What no row may see is NaN: unused blocks, and the rest of each last block.
    std::vector<bool> used(pool_rows, false);
    for (size_t i = 0; i < attend.size(); ++i) {
      for (int64_t s = 0; s < sequences[i].start + sequences[i].rows; ++s) {
        used[tables[i][s / block_tokens].value() * block_tokens + s % block_tokens] = true;
      }
    }
    Tensor reference_pool = testing::As(pool, DType::kF32);
    for (int64_t r = 0; r < pool_rows; ++r) {
      for (int64_t i = 0; i < width && !used[r]; ++i) pool.Set(r * width + i, NAN);
    }
    const Tensor q = testing::Random(random_, DType::kBF16, {row, heads, width});
    const float scale = 1.5f / std::sqrt(static_cast<float>(width));
    const Tensor out(DType::kBF16, {row, heads, latent}), want(DType::kF32, {row, heads, latent});
    auto stream = kernels_->NewStream();
    kernels_->MlaAttend(*stream, {q, pool, block_tokens, attend, scale, out});
    reference_->MlaAttend(
        *stream, {testing::As(q, DType::kF32), reference_pool, block_tokens, attend, scale, want});
    // |c| <= about 4.5 everywhere; averages are smaller.
    for (int64_t i = 0; i < row * heads * latent; ++i) {
      ASSERT_NEAR(out.At(i), want.At(i), 0x1p-13f * 4.5f + testing::BF16Tolerance(want.At(i)))
          << "row " << i / (heads * latent) << " head " << i / latent % heads << " column "
          << i % latent;
    }
  }

  std::mt19937 random_{13};
  std::unique_ptr<Kernels> kernels_ = GetParam().Make(2);
  std::unique_ptr<Kernels> reference_ = testing::Reference();
};

TEST_P(MlaTest, AttendTilesInPlace) {
  CheckAttend(16, 512, 64, 64, {{0, 3}, {61, 5}, {200, 1}});
  CheckAttend(16, 64, 16, 128, {{0, 70}, {127, 2}});
  CheckAttend(32, 32, 32, 64, {{0, 130}});
}
TEST_P(MlaTest, AttendTilesGathered) {
  CheckAttend(3, 40, 8, 64, {{0, 67}});
  CheckAttend(16, 64, 16, 16, {{0, 20}, {63, 3}});
  CheckAttend(20, 64, 16, 7, {{30, 41}, {0, 1}, {0, 2}});
  CheckAttend(1, 5, 2, 1, {{0, 9}});
  CheckAttend(2, 7, 4, 3, {{100, 4}});
}
// Few rows: segments are computed apart. Many: one after another.
TEST_P(MlaTest, AttendLongContexts) {
  CheckAttend(16, 64, 16, 64, {{511, 1}});
  CheckAttend(16, 64, 16, 64, {{512, 1}});
  CheckAttend(4, 64, 16, 64, {{1500, 2}});
  CheckAttend(16, 64, 16, 64, {{1020, 12}});
  CheckAttend(2, 32, 8, 16, {{600, 1}, {1100, 1}});
}

TEST_P(MlaTest, Append) {
  for (const auto& [latent, rope_dim] : {std::pair{512, 64}, {40, 8}, {64, 16}}) {
    const int64_t width = latent + rope_dim;
    const Rope rope(rope_dim, 50);
    const Tensor kv = testing::Random(random_, DType::kF32, {4, width});
    const Tensor norm = testing::Random(random_, DType::kF32, {latent});
    const Tensor pool(DType::kBF16, {10, width}), want(DType::kF32, {10, width});
    const std::vector<int32_t> positions = {0, 1, 49, 7};
    const std::vector<int64_t> slots = {9, 0, 3, 4};
    auto stream = kernels_->NewStream();
    kernels_->MlaAppend(*stream, {kv, norm, 1e-6f, rope.table, positions, slots, pool});
    reference_->MlaAppend(*stream, {kv, norm, 1e-6f, rope.table, positions, slots, want});
    for (int64_t i = 0; i < 10 * width; ++i) {
      ASSERT_NEAR(pool.At(i), want.At(i), testing::BF16Tolerance(want.At(i)) + 1e-6f);
    }
  }
}

TEST_P(MlaTest, QueriesAndHeads) {
  struct Case {
    int64_t rows, heads, nope, rope, v, latent;
    DType dtype;
  };
  // The FP8 cases: heads within a block of scales, heads of a block, heads that straddle blocks.
  for (const Case& c :
       {Case{5, 16, 128, 64, 128, 512, DType::kBF16}, Case{3, 3, 24, 8, 20, 40, DType::kBF16},
        Case{2, 2, 7, 4, 5, 9, DType::kF32}, Case{4, 4, 32, 16, 32, 64, DType::kF8E4M3},
        Case{2, 3, 128, 16, 128, 256, DType::kF8E4M3}, Case{2, 5, 24, 8, 36, 40, DType::kF8E4M3}}) {
    SCOPED_TRACE(::testing::Message()
                 << c.heads << " heads of " << c.nope << "+" << c.v << " in " << c.latent);
    const Weight kv_b =
        testing::RandomWeight(random_, c.dtype, c.heads * (c.nope + c.v), c.latent, 0.05f);
    Tensor values(DType::kF32, {kv_b.quant.rows(), c.latent});
    Dequantise(kv_b.quant, values);
    const auto prepare = [&](Kernels& kernels, bool key) {
      return kernels.PrepareHeads(kv_b.quant, c.heads, key ? 0 : c.nope, key ? c.nope : c.v, key)
          .value();
    };
    const Rope rope(static_cast<int>(c.rope), 20);
    const std::vector<int32_t> positions = {3, 19, 0, 7, 11};
    const auto used = absl::MakeConstSpan(positions).subspan(0, c.rows);
    auto stream = kernels_->NewStream();

    const Tensor q_rounded =
        testing::Random(random_, DType::kBF16, {c.rows, c.heads, c.nope + c.rope});
    const Tensor q = testing::As(q_rounded, DType::kF32);
    const Tensor out(DType::kBF16, {c.rows, c.heads, c.latent + c.rope}),
        want(DType::kF32, {c.rows, c.heads, c.latent + c.rope});
    const auto wuk = prepare(*kernels_, true), reference_wuk = prepare(*reference_, true);
    kernels_->MlaQuery(*stream, {q, wuk.get(), rope.table, used, out});
    reference_->MlaQuery(*stream, {q, reference_wuk.get(), rope.table, used, want});
    const float norm = testing::Norm(values, 0, values.view().elements()) /
                       std::sqrt(static_cast<float>(values.view().elements()));  // of one element
    for (int64_t i = 0; i < c.rows * c.heads * (c.latent + c.rope); ++i) {
      const auto n = static_cast<float>(c.nope);
      ASSERT_NEAR(out.At(i), want.At(i),
                  testing::SumTolerance(c.nope, 2 * std::sqrt(n), 2 * norm * std::sqrt(n)) +
                      testing::BF16Tolerance(want.At(i)) + 1e-6f)
          << i;
    }

    const Tensor u = testing::Random(random_, DType::kBF16, {c.rows, c.heads, c.latent});
    const Tensor v(DType::kF32, {c.rows, c.heads, c.v}),
        v_want(DType::kF32, {c.rows, c.heads, c.v});
    const auto wuv = prepare(*kernels_, false), reference_wuv = prepare(*reference_, false);
    kernels_->LinearHeads(*stream, u, *wuv, v);
    reference_->LinearHeads(*stream, testing::As(u, DType::kF32), *reference_wuv, v_want);
    for (int64_t i = 0; i < c.rows * c.heads * c.v; ++i) {
      const auto n = static_cast<float>(c.latent);
      ASSERT_NEAR(v.At(i), v_want.At(i),
                  testing::SumTolerance(c.latent, 2 * std::sqrt(n), 2 * norm * std::sqrt(n)))
          << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, MlaTest, ::testing::ValuesIn(testing::Backends()),
                         testing::BackendName);

}  // namespace
}  // namespace shoal
