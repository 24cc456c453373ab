// SPDX-License-Identifier: Apache-2.0
// Shows the property everything else stands on: an output row has the same bits alone, in any
// batch, at any place in it, and on any number of threads; for attention also for any size of cache
// blocks and any chunking of a prompt. Each operation runs on random choices of rows (with
// repetitions) and is compared, bit for bit, with the rows run alone.
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <numeric>

#include "tests/kernels/backends.h"

namespace shoal {
namespace {

using testing::Backend;
using testing::Tensor;
using testing::Weight;

// Rows `rows` of a tensor, as one.
Tensor Pick(const Tensor& from, const std::vector<int>& rows) {
  const TensorView view = from.view();
  const auto n = static_cast<int64_t>(rows.size());
  Tensor to = view.rank() == 3 ? Tensor(view.dtype(), {n, view.dim(1), view.dim(2)})
                               : Tensor(view.dtype(), {n, view.dim(1)});
  const size_t bytes = view.bytes() / view.dim(0);
  for (int64_t i = 0; i < n; ++i) {
    std::memcpy(static_cast<std::byte*>(to.view().data()) + i * bytes,
                static_cast<const std::byte*>(view.data()) + rows[i] * bytes, bytes);
  }
  return to;
}

class RowIndependenceTest : public ::testing::TestWithParam<Backend> {
 protected:
  // An operation on chosen rows; returns the bits of each output row.
  using Operation =
      std::function<std::vector<std::string>(Kernels& kernels, const std::vector<int>& rows)>;

  void Check(const char* name, int rows, const Operation& run) {
    SCOPED_TRACE(name);
    std::map<int, std::string> alone;  // filled when first wanted
    std::vector<int> all(rows);
    std::iota(all.begin(), all.end(), 0);
    for (Kernels* kernels : {one_.get(), two_.get(), five_.get()}) {
      std::vector<std::vector<int>> batches = {all};
      for (const int size : {1, 2, 3, 5, 6, 7, 13, rows - 1}) {
        std::vector<int> batch;
        for (int i = 0; i < size; ++i) batch.push_back(static_cast<int>(random_() % rows));
        batches.push_back(batch);
      }
      for (const std::vector<int>& batch : batches) {
        const std::vector<std::string> together = run(*kernels, batch);
        for (size_t i = 0; i < batch.size(); ++i) {
          // Of a large batch, those around the units it is cut into, and some.
          if (i > 20 && i % 64 > 2 && i % 13 != 0 && i + 1 != batch.size()) continue;
          std::string& want = alone[batch[i]];
          if (want.empty()) want = run(*one_, {batch[i]})[0];
          ASSERT_EQ(together[i], want)
              << "row " << batch[i] << " at " << i << " of " << batch.size();
        }
      }
    }
  }

  static std::vector<std::string> RowBits(const Tensor& tensor) {
    std::vector<std::string> bits;
    const int64_t width = tensor.view().row_elements();
    for (int64_t i = 0; i < tensor.view().dim(0); ++i)
      bits.push_back(tensor.Bits(i * width, width));
    return bits;
  }

  std::mt19937 random_{23};
  std::unique_ptr<Kernels> one_ = GetParam().Make(1), two_ = GetParam().Make(2),
                           five_ = GetParam().Make(5);
  std::unique_ptr<Stream> stream_ = one_->NewStream();
};

TEST_P(RowIndependenceTest, Linear) {
  struct Case {
    DType dtype;
    int64_t outputs, inputs;
    bool fp8;
  };
  for (const Case& c : {Case{DType::kBF16, 200, 600, false}, Case{DType::kF32, 70, 258, false},
                        Case{DType::kF16, 33, 300, false}, Case{DType::kF8E4M3, 150, 520, false},
                        Case{DType::kF8E4M3, 80, 300, true}}) {
    const Weight weight = testing::RandomWeight(random_, c.dtype, c.outputs, c.inputs, 0.05f);
    LinearOptions options;
    options.fp8_activations = c.fp8;
    const auto prepared = one_->PrepareLinear(weight.quant, options).value();
    const Tensor x = testing::Random(random_, DType::kF32, {300, c.inputs});
    Check(std::string(DTypeName(c.dtype)).c_str(), 300,
          [&](Kernels& kernels, const std::vector<int>& rows) {
            const Tensor y(DType::kF32, {static_cast<int64_t>(rows.size()), c.outputs});
            kernels.Linear(*stream_, Pick(x, rows), *prepared, y);
            return RowBits(y);
          });
  }
}

TEST_P(RowIndependenceTest, GroupedFfn) {
  for (const bool fp8 : {false, true}) {
    constexpr int64_t kHidden = 96, kWidth = 136;
    LinearOptions options;
    options.fp8_activations = fp8;
    std::vector<FfnWeights> experts(3);
    std::vector<const FfnWeights*> pointers;
    std::vector<Weight> stored;
    for (FfnWeights& expert : experts) {
      for (auto* part : {&expert.gate, &expert.up, &expert.down}) {
        const bool down = part == &expert.down;
        stored.push_back(testing::RandomWeight(random_, fp8 ? DType::kF8E4M3 : DType::kBF16,
                                               down ? kHidden : kWidth, down ? kWidth : kHidden,
                                               0.1f));
        *part = one_->PrepareLinear(stored.back().quant, options).value();
      }
      pointers.push_back(&expert);
    }
    const Tensor x = testing::Random(random_, DType::kBF16, {290, kHidden});
    // Row i goes to expert i % 3; the batch is sorted by expert and the rows are put back.
    Check(fp8 ? "fp8" : "bf16", 290, [&](Kernels& kernels, const std::vector<int>& rows) {
      std::vector<int> sorted, place(rows.size());
      std::vector<int32_t> offsets = {0};
      for (int e = 0; e < 3; ++e) {
        for (size_t i = 0; i < rows.size(); ++i) {
          if (rows[i] % 3 != e) continue;
          place[i] = static_cast<int>(sorted.size());
          sorted.push_back(rows[i]);
        }
        offsets.push_back(static_cast<int32_t>(sorted.size()));
      }
      const Tensor y(DType::kF32, {static_cast<int64_t>(rows.size()), kHidden});
      kernels.GroupedFfn(*stream_, {Pick(x, sorted), pointers, offsets, y});
      const std::vector<std::string> bits = RowBits(y);
      std::vector<std::string> back;
      for (const int p : place) back.push_back(bits[p]);
      return back;
    });
  }
}

TEST_P(RowIndependenceTest, RouterNormEmbedCombine) {
  const Tensor x = testing::Random(random_, DType::kF32, {300, 203});
  const Tensor w = testing::Random(random_, DType::kBF16, {37, 203}, 0.1f);
  Check("logits", 300, [&](Kernels& kernels, const std::vector<int>& rows) {
    const Tensor y(DType::kF32, {static_cast<int64_t>(rows.size()), 37});
    kernels.RouterLogits(*stream_, Pick(x, rows), w, y);
    return RowBits(y);
  });
  RouterConfig config;
  config.n_routed_experts = 203;
  config.num_experts_per_tok = 7;
  Check("route", 300, [&](Kernels& kernels, const std::vector<int>& rows) {
    const auto n = static_cast<int64_t>(rows.size());
    const Tensor experts(DType::kI32, {n, 7}), weights(DType::kF32, {n, 7});
    kernels.Route(*stream_, config, Pick(x, rows), {}, experts, weights);
    std::vector<std::string> bits = RowBits(weights), ids = RowBits(experts);
    for (int64_t i = 0; i < n; ++i) bits[i] += ids[i];
    return bits;
  });
  const Tensor norm = testing::Random(random_, DType::kF32, {203});
  Check("norm", 300, [&](Kernels& kernels, const std::vector<int>& rows) {
    const Tensor y(DType::kBF16, {static_cast<int64_t>(rows.size()), 203});
    kernels.RmsNorm(*stream_, Pick(x, rows), norm, 1e-6f, y);
    return RowBits(y);
  });
  const Tensor weights = testing::Random(random_, DType::kF32, {300, 2});
  Check("combine", 300, [&](Kernels& kernels, const std::vector<int>& rows) {
    const auto n = static_cast<int64_t>(rows.size());
    const Tensor picked = Pick(x, rows), y(DType::kF32, {n, 203});
    std::vector<const void*> pointers;
    for (int64_t i = 0; i < n; ++i) {
      pointers.push_back(picked.view().Rows(i, 1).data());
      pointers.push_back(x.view().Rows(299 - rows[i], 1).data());
    }
    kernels.Combine(*stream_, {pointers, DType::kF32, Pick(weights, rows), {}, y});
    return RowBits(y);
  });
}

TEST_P(RowIndependenceTest, HeadsAndQueries) {
  constexpr int64_t kHeads = 5, kNope = 24, kRope = 8, kLatent = 72;
  const Weight kv_b =
      testing::RandomWeight(random_, DType::kBF16, kHeads * 2 * kNope, kLatent, 0.1f);
  const auto wuk = one_->PrepareHeads(kv_b.quant, kHeads, 0, kNope, true).value();
  const auto wuv = one_->PrepareHeads(kv_b.quant, kHeads, kNope, kNope, false).value();
  const Tensor q = testing::Random(random_, DType::kF32, {300, kHeads, kNope + kRope});
  const Tensor u = testing::Random(random_, DType::kBF16, {300, kHeads, kLatent});
  const std::vector<float> cos(300 * kRope / 2, 0.8f), sin(300 * kRope / 2, 0.6f);
  Check("query", 300, [&](Kernels& kernels, const std::vector<int>& rows) {
    const Tensor out(DType::kBF16, {static_cast<int64_t>(rows.size()), kHeads, kLatent + kRope});
    const std::vector<int32_t> positions(rows.begin(), rows.end());
    kernels.MlaQuery(*stream_, {Pick(q, rows), wuk.get(), {cos, sin, kRope}, positions, out});
    return RowBits(out);
  });
  Check("value", 300, [&](Kernels& kernels, const std::vector<int>& rows) {
    const Tensor out(DType::kBF16, {static_cast<int64_t>(rows.size()), kHeads, kNope});
    kernels.LinearHeads(*stream_, Pick(u, rows), *wuv, out);
    return RowBits(out);
  });
}

// A prompt of 1100 positions: its last rows alone, in chunks, beside other sequences, with blocks
// of other sizes.
TEST_P(RowIndependenceTest, Attention) {
  constexpr int64_t kHeads = 3, kLatent = 32, kRope = 8, kWidth = kLatent + kRope,
                    kPositions = 1100;
  const Tensor rows = testing::Random(random_, DType::kBF16, {kPositions, kWidth});
  const Tensor queries = testing::Random(random_, DType::kBF16, {kPositions, kHeads, kWidth});
  // Attends positions [begin, begin + count) of two sequences that share their rows, in chunks of
  // `chunk`.
  const auto attend = [&](Kernels& kernels, int block_tokens, int begin, int count, int chunk) {
    const int blocks = (kPositions + block_tokens - 1) / block_tokens;
    std::vector<BlockId> table;
    Tensor pool(DType::kBF16, {static_cast<int64_t>(blocks) * block_tokens, kWidth});
    for (int b = 0; b < blocks; ++b) table.emplace_back(blocks - 1 - b);
    for (int s = 0; s < kPositions; ++s) {
      const int64_t slot =
          static_cast<int64_t>(table[s / block_tokens].value()) * block_tokens + s % block_tokens;
      std::memcpy(pool.view().as<uint16_t>() + slot * kWidth,
                  rows.view().as<uint16_t>() + s * kWidth, kWidth * sizeof(uint16_t));
    }
    std::vector<std::string> bits;
    for (int first = begin; first < begin + count; first += chunk) {
      const int n = std::min(chunk, begin + count - first);
      std::vector<int> picked;
      for (int i = 0; i < n; ++i) picked.push_back(first + i);
      picked.push_back(40);  // a neighbour with another context
      const Tensor out(DType::kBF16, {n + 1, kHeads, kLatent});
      const std::vector<AttendSequence> sequences = {{0, n, first, table}, {n, 1, 40, table}};
      kernels.MlaAttend(*stream_,
                        {Pick(queries, picked), pool, block_tokens, sequences, 0.2f, out});
      const std::vector<std::string> chunk_bits = RowBits(out);
      bits.insert(bits.end(), chunk_bits.begin(), chunk_bits.end() - 1);
    }
    return bits;
  };
  const auto want = attend(*one_, 64, 0, kPositions, kPositions);
  for (Kernels* kernels : {one_.get(), two_.get(), five_.get()}) {
    for (const int block_tokens : {16, 64, 128, 100}) {
      const auto chunked = attend(*kernels, block_tokens, 0, 130, 33);
      for (size_t i = 0; i < chunked.size(); ++i)
        ASSERT_EQ(chunked[i], want[i]) << i << " blocks " << block_tokens;
      for (const int begin : {500, 511, 512, 640, 1020, 1099}) {
        const auto alone = attend(*kernels, block_tokens, begin, 1, 1);
        ASSERT_EQ(alone[0], want[begin]) << begin << " blocks " << block_tokens;
      }
    }
    const auto tail = attend(*kernels, 64, 900, 200, 64);
    for (size_t i = 0; i < tail.size(); ++i) ASSERT_EQ(tail[i], want[900 + i]) << 900 + i;
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, RowIndependenceTest, ::testing::ValuesIn(testing::Backends()),
                         testing::BackendName);

}  // namespace
}  // namespace shoal
