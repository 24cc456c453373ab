// SPDX-License-Identifier: Apache-2.0
// Shows the property everything else stands on: for one backend, the logits of a prompt are the
// same bits for any number of ranks, any placement of experts (replicas included), any rank the
// sequence lives on, alone or in any batch, prefilled whole or in any chunks, in any cache blocks,
// from another sequence's prefix blocks or its own. Worlds are drawn from seeds (printed); each is
// held against every prompt alone, whole, on one rank.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "deploy/shoal/local_unit.h"
#include "engine/cache/kv_cache.h"
#include "engine/config/read_model_config.h"
#include "gtest/gtest.h"

namespace shoal {
namespace {

constexpr int32_t kMaxRows = 48;  // of one step on one rank
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr uint64_t kSeeds = 6;  // sanitizers look at the code, not at the numbers
#else
constexpr uint64_t kSeeds = 24;
#endif

class Dice {
 public:
  explicit Dice(uint64_t seed) : engine_(seed) {}
  // Uniform in [low, high].
  int Roll(int low, int high) {
    return low + static_cast<int>(engine_() % static_cast<uint64_t>(high - low + 1));
  }
  template <typename T>
  const T& Pick(const std::vector<T>& from) {
    return from[Roll(0, static_cast<int>(from.size()) - 1)];
  }
  template <typename T>
  void Shuffle(std::vector<T>& items) {
    for (size_t i = items.size(); i > 1; --i)
      std::swap(items[i - 1], items[Roll(0, static_cast<int>(i) - 1)]);
  }

 private:
  std::mt19937_64 engine_;
};

// A part of one sequence, to be computed in one step.
struct Piece {
  int sequence = 0;
  int32_t start = 0;
  int32_t count = 0;
};
// pieces[step][rank]
using Schedule = std::vector<std::vector<std::vector<Piece>>>;

struct World {
  std::string model;
  ModelConfig config;
  bool fp8_activations = false;
  int block_tokens = 16;
  std::vector<std::vector<int32_t>> prompts;
};

// All logits of all prompts: rows that a schedule does not compute stay NaN.
using Logits = std::vector<std::vector<float>>;

absl::StatusOr<Logits> RunSchedule(const World& world, const std::string& backend, int ranks,
                                   const ExpertPlacement* placement,
                                   const std::vector<std::vector<BlockId>>& tables, int64_t blocks,
                                   const Schedule& schedule, int64_t max_rows) {
  LocalUnitOptions options;
  options.model = world.model;
  options.workers = ranks;
  options.backend = backend;
  options.threads = ranks;
  options.placement = placement;
  options.options.max_batch_rows = options.options.max_logit_rows = max_rows;
  options.options.block_tokens = world.block_tokens;
  options.options.cache_blocks = blocks;
  options.options.fp8_activations = world.fp8_activations;
  options.timeout = absl::Seconds(60);
  auto unit = LocalUnit::Create(world.config, options);
  if (!unit.ok()) return unit.status();

  const int64_t vocab = world.config.vocab_size;
  Logits logits;
  for (const auto& prompt : world.prompts) logits.emplace_back(prompt.size() * vocab, NAN);
  const absl::Status status = (*unit)->Run([&](RankId rank, Model& model) -> absl::Status {
    std::vector<float> rows(max_rows * vocab);
    for (size_t step = 0; step < schedule.size(); ++step) {
      Batch batch;
      for (const Piece& piece : schedule[step][rank.value()]) {
        const int32_t first = static_cast<int32_t>(batch.tokens.size());
        batch.sequences.push_back({first, piece.count, piece.start, tables[piece.sequence]});
        for (int32_t i = 0; i < piece.count; ++i) {
          batch.tokens.push_back(world.prompts[piece.sequence][piece.start + i]);
          batch.logit_rows.push_back(first + i);
        }
      }
      const int64_t count = static_cast<int64_t>(batch.tokens.size());
      const absl::Status forward =
          model.Forward((*unit)->Tag(static_cast<int64_t>(step)), batch,
                        TensorView(rows.data(), DType::kF32, {count, vocab}));
      if (!forward.ok()) return forward;
      const float* row = rows.data();
      for (const Piece& piece : schedule[step][rank.value()]) {
        std::copy_n(row, piece.count * vocab, logits[piece.sequence].begin() + piece.start * vocab);
        row += piece.count * vocab;
      }
    }
    return absl::OkStatus();
  });
  if (!status.ok()) return status;
  return logits;
}

// Each prompt alone and whole, one after the other in the same blocks, on one rank.
absl::StatusOr<Logits> Alone(const World& world, const std::string& backend) {
  size_t longest = 0;
  for (const auto& prompt : world.prompts) longest = std::max(longest, prompt.size());
  const int64_t blocks = BlocksForTokens(static_cast<int64_t>(longest), world.block_tokens);
  std::vector<BlockId> table;
  for (int32_t b = 0; b < blocks; ++b) table.push_back(BlockId(b));
  Schedule schedule;
  for (size_t p = 0; p < world.prompts.size(); ++p) {
    schedule.push_back({{{static_cast<int>(p), 0, static_cast<int32_t>(world.prompts[p].size())}}});
  }
  const std::vector<std::vector<BlockId>> tables(world.prompts.size(), table);
  return RunSchedule(world, backend, 1, nullptr, tables, blocks, schedule,
                     static_cast<int64_t>(longest));
}

ExpertPlacement DrawPlacement(Dice& dice, const ModelConfig& config, int ranks) {
  std::vector<std::vector<std::vector<RankId>>> holders;
  for (int experts : config.RoutedExperts()) {
    auto& layer = holders.emplace_back(experts);
    for (auto& expert : layer) {
      std::vector<int> order(ranks);
      std::iota(order.begin(), order.end(), 0);
      dice.Shuffle(order);
      const int copies = dice.Roll(0, 3) == 0 ? dice.Roll(1, ranks) : 1;
      std::sort(order.begin(), order.begin() + copies);
      for (int i = 0; i < copies; ++i) expert.push_back(RankId(order[i]));
    }
  }
  return *ExpertPlacement::Create(ranks, holders);
}

// Cuts every sequence into random pieces and packs them into steps; ranks may idle, sequences may
// pause.
Schedule DrawSchedule(Dice& dice, const World& world, const std::vector<int>& owners, int ranks) {
  Schedule schedule;
  std::vector<int32_t> done(world.prompts.size(), 0);
  while (true) {
    bool finished = true;
    std::vector<std::vector<Piece>> step(ranks);
    std::vector<int32_t> room(ranks, kMaxRows);
    std::vector<int> order(world.prompts.size());
    std::iota(order.begin(), order.end(), 0);
    dice.Shuffle(order);
    for (int p : order) {
      const int32_t left = static_cast<int32_t>(world.prompts[p].size()) - done[p];
      if (left == 0) continue;
      finished = false;
      const int32_t most = std::min(left, room[owners[p]]);
      if (most == 0 || dice.Roll(0, 4) == 0) continue;
      const int32_t count = dice.Roll(0, 2) == 0 ? 1 : dice.Roll(1, most);
      step[owners[p]].push_back({p, done[p], count});
      done[p] += count;
      room[owners[p]] -= count;
    }
    if (finished) return schedule;
    schedule.push_back(std::move(step));
  }
}

World DrawWorld(Dice& dice) {
  World world;
  const std::string name = dice.Pick<std::string>({"v2-lite", "v2", "v3", "v3-fp8", "odd"});
  world.model = absl::StrCat(SHOAL_SOURCE_DIR, "/tests/golden/models/", name);
  world.config = *ReadModelConfig(world.model);
  world.fp8_activations = name == "v3-fp8" && dice.Roll(0, 1) == 1;
  world.block_tokens = dice.Pick<int>({4, 16, 64});
  const int prompts = dice.Roll(2, 6);
  for (int p = 0; p < prompts; ++p) {
    auto& prompt = world.prompts.emplace_back(dice.Roll(1, 70));
    for (int32_t& token : prompt) token = dice.Roll(0, world.config.vocab_size - 1);
  }
  return world;
}

void ExpectSameBits(const Logits& found, const Logits& wanted) {
  ASSERT_EQ(found.size(), wanted.size());
  for (size_t p = 0; p < wanted.size(); ++p) {
    ASSERT_EQ(found[p].size(), wanted[p].size());
    ASSERT_EQ(std::memcmp(found[p].data(), wanted[p].data(), wanted[p].size() * sizeof(float)), 0)
        << "prompt " << p;
    ASSERT_FALSE(std::isnan(wanted[p].back()));
  }
}

class ModelExactness : public ::testing::TestWithParam<std::string> {};

TEST_P(ModelExactness, SameBitsInAnyWorld) {
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    std::printf("seed %d\n", static_cast<int>(seed));
    Dice dice(seed);
    const World world = DrawWorld(dice);
    const int experts = world.config.MaxRoutedExperts();
    std::vector<int> sizes = {1, 2, 3, 4, 8, std::min(experts, 11)};
    const int ranks = std::min(dice.Pick(sizes), experts);
    const ExpertPlacement placement = DrawPlacement(dice, world.config, ranks);
    std::vector<int> owners;
    std::vector<int64_t> used(ranks, 0);
    for (size_t p = 0; p < world.prompts.size(); ++p) owners.push_back(dice.Roll(0, ranks - 1));
    for (size_t p = 0; p < world.prompts.size(); ++p) {
      used[owners[p]] +=
          BlocksForTokens(static_cast<int64_t>(world.prompts[p].size()), world.block_tokens);
    }
    const int64_t blocks =
        std::max<int64_t>(1, *std::max_element(used.begin(), used.end())) + dice.Roll(0, 5);
    // Blocks of each rank's pool in a random order.
    std::vector<std::vector<BlockId>> free(ranks);
    for (auto& ids : free) {
      for (int32_t b = 0; b < blocks; ++b) ids.push_back(BlockId(b));
      dice.Shuffle(ids);
    }
    std::vector<std::vector<BlockId>> tables;
    for (size_t p = 0; p < world.prompts.size(); ++p) {
      auto& ids = free[owners[p]];
      const int64_t count =
          BlocksForTokens(static_cast<int64_t>(world.prompts[p].size()), world.block_tokens);
      tables.emplace_back(ids.end() - count, ids.end());
      ids.resize(ids.size() - count);
    }
    const Schedule schedule = DrawSchedule(dice, world, owners, ranks);
    SCOPED_TRACE(absl::StrCat("seed ", seed, ": ", world.model, ", ", ranks, " ranks, owners ",
                              absl::StrJoin(owners, " "), ", ", schedule.size(),
                              " steps, block_tokens ", world.block_tokens,
                              world.fp8_activations ? ", fp8 activations" : ""));
    const auto wanted = Alone(world, GetParam());
    ASSERT_TRUE(wanted.ok()) << wanted.status();
    const auto found =
        RunSchedule(world, GetParam(), ranks, &placement, tables, blocks, schedule, kMaxRows);
    ASSERT_TRUE(found.ok()) << found.status();
    ExpectSameBits(*found, *wanted);
    if (HasFatalFailure()) return;
  }
}

// A second sequence starts from the first one's blocks, as the prefix cache would have it.
TEST_P(ModelExactness, PrefixBlocksOfAnotherSequence) {
  Dice dice(99);
  World world = DrawWorld(dice);
  world.block_tokens = 16;
  world.prompts = {std::vector<int32_t>(50), std::vector<int32_t>(45)};
  for (int32_t& token : world.prompts[0]) token = dice.Roll(0, world.config.vocab_size - 1);
  for (size_t i = 0; i < 45; ++i) {
    world.prompts[1][i] = i < 32 ? world.prompts[0][i] : dice.Roll(0, world.config.vocab_size - 1);
  }
  const auto wanted = Alone(world, GetParam());
  ASSERT_TRUE(wanted.ok()) << wanted.status();

  const std::vector<std::vector<BlockId>> tables = {
      {BlockId(4), BlockId(1), BlockId(0), BlockId(3)}, {BlockId(4), BlockId(1), BlockId(2)}};
  const Schedule schedule = {{{{0, 0, 40}}}, {{{1, 32, 13}, {0, 40, 10}}}};
  auto found = RunSchedule(world, GetParam(), 1, nullptr, tables, 5, schedule, 48);
  ASSERT_TRUE(found.ok()) << found.status();
  // The shared rows were computed once, for the first sequence.
  const size_t shared = 32 * static_cast<size_t>(world.config.vocab_size);
  std::copy_n((*found)[0].begin(), shared, (*found)[1].begin());
  ExpectSameBits(*found, *wanted);
}

INSTANTIATE_TEST_SUITE_P(Backends, ModelExactness, ::testing::Values("reference", "cpu"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace shoal
