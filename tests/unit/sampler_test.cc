// SPDX-License-Identifier: Apache-2.0
// Shows that the sampler does what each parameter says: known answers for greedy, penalties, bias
// and cuts; frequencies over many positions for the draw itself; published vectors for the
// generator.
#include "engine/sample/sampler.h"

#include <cmath>
#include <limits>
#include <map>
#include <vector>

#include "engine/sample/philox.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shoal {
namespace {

using testing::ElementsAre;
using testing::Pair;

// Known answers of the generator's authors (Random123, kat_vectors, philox4x32 10 rounds).
TEST(Philox, EqualsThePublishedVectors) {
  EXPECT_THAT(Philox4x32(0, {0, 0, 0, 0}),
              ElementsAre(0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8));
  EXPECT_THAT(Philox4x32(0xffffffffffffffff, {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}),
              ElementsAre(0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd));
  EXPECT_THAT(Philox4x32(0x299f31d0a4093822, {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}),
              ElementsAre(0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1));
}

TEST(Philox, UniformFillsTheUnitInterval) {
  double sum = 0;
  int low = 0;
  for (int i = 0; i < 20000; ++i) {
    const double u = UniformAt(9, i);
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
    low += u < 0.1;
  }
  EXPECT_NEAR(sum / 20000, 0.5, 0.01);
  EXPECT_NEAR(low / 20000.0, 0.1, 0.01);
}

SamplingParams Greedy() {
  SamplingParams params;
  params.temperature = 0;
  return params;
}

int32_t Choose(const std::vector<float>& logits, const SamplingParams& params,
               const std::vector<int32_t>& tokens = {0}, int prompt = 1) {
  Sampler sampler(static_cast<int>(logits.size()), static_cast<int>(logits.size()));
  return *sampler.Sample(logits, params, tokens, prompt);
}

TEST(Sampler, GreedyTakesTheLargestAndTheLowerIdOfEquals) {
  EXPECT_EQ(Choose({1, 3, 2}, Greedy()), 1);
  EXPECT_EQ(Choose({1, 3, 3, 3}, Greedy()), 1);
  EXPECT_EQ(Choose({-5, -4}, Greedy()), 1);
}

TEST(Sampler, IdsBeyondTheVocabularyAreNeverChosen) {
  Sampler sampler(4, 2);
  EXPECT_EQ(*sampler.Sample(std::vector<float>{1, 2, 9, 9}, Greedy(), {{0}}, 1), 1);
  SamplingParams params;
  for (int i = 1; i < 200; ++i) {
    EXPECT_LT(
        *sampler.Sample(std::vector<float>{1, 2, 9, 9}, params, std::vector<int32_t>(i, 0), i), 2);
  }
}

TEST(Sampler, PenaltiesCountWhatTheyShould) {
  SamplingParams params = Greedy();
  params.repetition_penalty =
      2;  // prompt counts; positive logits are divided, negative ones multiplied
  EXPECT_EQ(Choose({4, 3, 0}, params, {0}, 1), 1);
  EXPECT_EQ(Choose({-1, -1.5, -9}, params, {0}, 1), 1);
  EXPECT_EQ(Choose({4, 1.9, 0}, params, {0, 0, 0}, 3), 0);  // once, however often it occurred
  params = Greedy();
  params.presence_penalty = 1.5;
  EXPECT_EQ(Choose({4, 3, 0}, params, {0}, 1), 0);           // the prompt does not count
  EXPECT_EQ(Choose({4, 3, 0}, params, {2, 0}, 1), 1);        // generated tokens do
  EXPECT_EQ(Choose({4, 2, 0}, params, {2, 0, 0, 0}, 1), 0);  // once
  params = Greedy();
  params.frequency_penalty = 0.5;
  EXPECT_EQ(Choose({4, 3, 0}, params, {2, 0}, 1), 0);
  EXPECT_EQ(Choose({4, 3, 0}, params, {2, 0, 0, 0}, 1), 1);  // each time
}

TEST(Sampler, BiasAndMinimumTokens) {
  SamplingParams params = Greedy();
  params.logit_bias = {{2, 10.0f}, {7, 1.0f}};  // an id out of range changes nothing
  EXPECT_EQ(Choose({4, 3, 0}, params), 2);
  params = Greedy();
  params.end_token_ids = {0};
  params.min_tokens = 2;
  EXPECT_EQ(Choose({4, 3, 0}, params, {5, 1}, 1), 1);
  EXPECT_EQ(Choose({4, 3, 0}, params, {5, 1, 1}, 1), 0);
}

std::map<int32_t, double> Frequencies(const std::vector<float>& logits, SamplingParams params,
                                      int draws = 20000) {
  Sampler sampler(static_cast<int>(logits.size()), static_cast<int>(logits.size()));
  std::map<int32_t, double> frequency;
  const std::vector<int32_t> tokens{0};
  for (int i = 0; i < draws; ++i) {
    params.seed = i;
    frequency[*sampler.Sample(logits, params, tokens, 1)] += 1.0 / draws;
  }
  return frequency;
}

const std::vector<float> kLogits = {std::log(0.5f), std::log(0.25f), std::log(0.15f),
                                    std::log(0.1f)};

TEST(Sampler, DrawsFollowTheDistribution) {
  auto frequency = Frequencies(kLogits, {});
  EXPECT_NEAR(frequency[0], 0.5, 0.015);
  EXPECT_NEAR(frequency[1], 0.25, 0.015);
  EXPECT_NEAR(frequency[3], 0.1, 0.015);
  SamplingParams hot;
  hot.temperature = 2;  // square roots: 0.707 : 0.5 : 0.387 : 0.316
  frequency = Frequencies(kLogits, hot);
  EXPECT_NEAR(frequency[0], 0.3702, 0.015);
  EXPECT_NEAR(frequency[3], 0.1655, 0.015);
}

TEST(Sampler, CutsKeepTheRightTokensInProportion) {
  SamplingParams params;
  params.top_k = 2;
  auto frequency = Frequencies(kLogits, params);
  EXPECT_EQ(frequency.size(), 2u);
  EXPECT_NEAR(frequency[0], 2.0 / 3, 0.015);
  params = {};
  params.top_p = 0.7f;  // 0.5 is not enough, 0.75 is
  frequency = Frequencies(kLogits, params);
  EXPECT_EQ(frequency.size(), 2u);
  EXPECT_NEAR(frequency[1], 1.0 / 3, 0.015);
  params.top_p = 1e-6f;
  EXPECT_EQ(Frequencies(kLogits, params, 100).size(), 1u);
  params = {};
  params.min_p = 0.25f;  // of 0.5: keeps 0.5, 0.25, 0.15
  EXPECT_EQ(Frequencies(kLogits, params).size(), 3u);
  params.top_k = 3;
  params.top_p = 0.9f;  // after top_k: 0.556, 0.278, 0.167; two hold 0.833, three are needed
  EXPECT_EQ(Frequencies(kLogits, params).size(), 3u);
}

TEST(Sampler, SeedAndPositionDecideAlone) {
  Sampler one(4, 4), other(4, 4);
  SamplingParams params;
  params.seed = 77;
  for (int length = 1; length < 50; ++length) {
    const std::vector<int32_t> tokens(length, 1);
    const int32_t token = *one.Sample(kLogits, params, tokens, 1);
    SamplingParams noise = params;
    noise.seed = length;
    ASSERT_TRUE(other.Sample(kLogits, noise, tokens, 1).ok());
    EXPECT_EQ(*other.Sample(kLogits, params, tokens, length), token);
  }
}

TEST(Sampler, LogprobsAreOfTheUnchangedDistribution) {
  Sampler sampler(5, 4);
  TokenLogprobs logprobs;
  std::vector<float> logits = kLogits;
  logits.push_back(40);  // beyond the vocabulary: no mass
  ASSERT_TRUE(sampler.Logprobs(logits, 2, 3, logprobs).ok());
  EXPECT_NEAR(logprobs.chosen, std::log(0.15), 1e-6);
  EXPECT_THAT(logprobs.top, ElementsAre(Pair(0, testing::FloatNear(std::log(0.5f), 1e-6)),
                                        Pair(1, testing::FloatNear(std::log(0.25f), 1e-6)),
                                        Pair(2, testing::FloatNear(std::log(0.15f), 1e-6))));
  ASSERT_TRUE(sampler.Logprobs(logits, 0, 0, logprobs).ok());
  EXPECT_TRUE(logprobs.top.empty());
}

TEST(Sampler, LogitsThatAreNoNumbersAreAnError) {
  Sampler sampler(2, 2);
  const float nan = std::nanf(""), infinity = std::numeric_limits<float>::infinity();
  const std::vector<int32_t> tokens{0};
  EXPECT_EQ(sampler.Sample(std::vector<float>{1, nan}, Greedy(), tokens, 1).status().code(),
            absl::StatusCode::kInternal);
  EXPECT_EQ(sampler.Sample(std::vector<float>{1, infinity}, {}, tokens, 1).status().code(),
            absl::StatusCode::kInternal);
  EXPECT_EQ(sampler.Sample(std::vector<float>{-infinity, -infinity}, {}, tokens, 1).status().code(),
            absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace shoal
