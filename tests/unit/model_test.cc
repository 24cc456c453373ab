// SPDX-License-Identifier: Apache-2.0
// Shows the edges of a loaded model: every batch that does not describe itself consistently is
// refused before anything happens, options that contradict each other are refused at load, faults
// of an exchange surface once from Forward and the step may be repeated, placements change only to
// experts that are there, and multi-token prediction is not touched.
#include "engine/model/model.h"

#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/config/read_model_config.h"
#include "engine/device/reference/reference_kernels.h"
#include "engine/parallel/blamed_peers.h"
#include "engine/parallel/local.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/checkpoint_copy.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;

// A world of one whose bytes can be bent.
class FaultyExchange final : public Exchange {
 public:
  explicit FaultyExchange(size_t bytes) : inner_(bytes) {}
  RankId rank() const override { return RankId(0); }
  int world_size() const override { return 1; }
  size_t max_message_bytes() const override { return inner_.max_message_bytes(); }
  absl::Span<std::byte> SendBuffer(const ExchangeTag& tag, RankId peer,
                                   absl::Time deadline) override {
    buffer_ = inner_.SendBuffer(tag, peer, deadline);
    return buffer_;
  }
  absl::Status Post(const ExchangeTag& tag, absl::Span<const size_t> bytes) override {
    if (corrupt == tag.phase && bytes[0] > 0) buffer_[0] ^= std::byte{1};
    return inner_.Post(tag, bytes);
  }
  absl::Status Wait(const ExchangeTag& tag, absl::Time deadline,
                    absl::Span<absl::Span<const std::byte>> received) override {
    if (fail == tag.phase) return absl::DeadlineExceededError(tag.ToString());
    return inner_.Wait(tag, deadline, received);
  }
  void Release(const ExchangeTag& tag) override { inner_.Release(tag); }
  absl::Status InstallEpoch(Epoch epoch) override { return inner_.InstallEpoch(epoch); }
  void Cancel() override { inner_.Cancel(); }

  std::optional<ExchangePhase> fail;
  std::optional<ExchangePhase> corrupt;

 private:
  LocalExchange inner_;
  absl::Span<std::byte> buffer_;
};

class ModelTest : public ::testing::Test {
 protected:
  ModelTest() : kernels_(CreateReferenceKernels()) {
    folder_ = absl::StrCat(SHOAL_SOURCE_DIR, "/tests/golden/models/v3");
    config_ = *ReadModelConfig(folder_);
    options_.max_batch_rows = 8;
    options_.max_logit_rows = 2;
    options_.block_tokens = 4;
    options_.cache_blocks = 4;
    exchange_ = std::make_unique<FaultyExchange>(Model::MaxMessageBytes(config_, *kernels_, 8));
    placement_ = *ExpertPlacement::Contiguous(1, config_.RoutedExperts());
  }

  absl::StatusOr<std::unique_ptr<Model>> Load() {
    return Model::Load(folder_, config_, placement_, options_, *kernels_, *exchange_);
  }
  absl::Status Forward(Model& model, const Batch& batch) {
    logits_.assign(batch.logit_rows.size() * config_.vocab_size, 0);
    return model.Forward(
        {Epoch(1), StepId(1)}, batch,
        TensorView(logits_.data(), DType::kF32,
                   {static_cast<int64_t>(batch.logit_rows.size()), config_.vocab_size}));
  }
  // Three rows of one sequence, which fits.
  Batch Good() const { return {{1, 2, 3}, {{0, 3, 2, table_}}, {2}}; }

  std::unique_ptr<Kernels> kernels_;
  std::string folder_;
  ModelConfig config_;
  ModelOptions options_;
  std::unique_ptr<FaultyExchange> exchange_;
  ExpertPlacement placement_;
  std::vector<BlockId> table_ = {BlockId(3), BlockId(1)};
  std::vector<float> logits_;
};

TEST_F(ModelTest, BatchesThatDoNotHoldTogetherAreRefused) {
  const auto model = Load();
  ASSERT_TRUE(model.ok()) << model.status();
  ASSERT_TRUE(Forward(**model, Good()).ok());
  const std::vector<BlockId> outside = {BlockId(3), BlockId(4)};
  const std::vector<BlockId> negative = {BlockId(-1), BlockId(0)};
  const std::vector<std::pair<Batch, std::string>> bad = {
      {{std::vector<int32_t>(9, 1), {{0, 9, 0, table_}}, {}}, "step of 9 rows"},
      {{{1, 2, 3}, {{0, 3, 2, table_}}, {0, 1, 2}}, "logits of 3: want at most 8 and 2"},
      {{{1, 384, 3}, {{0, 3, 2, table_}}, {2}}, "token 384: want 0..383"},
      {{{1, -1, 3}, {{0, 3, 2, table_}}, {2}}, "token -1"},
      {{{1, 2, 3}, {{0, 2, 2, table_}}, {2}}, "its sequences cover 2"},
      {{{1, 2, 3}, {}, {}}, "its sequences cover 0"},
      {{{1, 2, 3}, {{1, 3, 2, table_}}, {2}}, "want rows from 0"},
      {{{1, 2, 3}, {{0, 0, 2, table_}, {0, 3, 2, table_}}, {2}}, "0 rows"},
      {{{1, 2, 3}, {{0, 3, -1, table_}}, {2}}, "position -1"},
      {{{1, 2, 3}, {{0, 3, 6, table_}}, {2}}, "want 3 blocks, found 2"},
      {{{1, 2, 3}, {{0, 3, 15, table_}}, {2}}, "sequence of 18 tokens: want at most 16"},
      {{{1, 2, 3}, {{0, 3, 2147483647, table_}}, {2}}, "sequence of 2147483650 tokens"},
      {{{1, 2, 3}, {{0, 3, 2, outside}}, {2}}, "block 4: want 0..3"},
      {{{1, 2, 3}, {{0, 3, 2, negative}}, {2}}, "block -1"},
      {{{1, 2, 3}, {{0, 3, 2, table_}}, {3}}, "logits of row 3"},
      {{{1, 2, 3}, {{0, 3, 2, table_}}, {1, 1}}, "logits of row 1 after row 1"},
      {{{1, 2, 3}, {{0, 3, 2, table_}}, {-1}}, "logits of row -1"},
  };
  for (const auto& [batch, message] : bad) {
    const absl::Status status = Forward(**model, batch);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }
  EXPECT_TRUE(Forward(**model, Good()).ok());
  EXPECT_TRUE(Forward(**model, Batch()).ok()) << "an idle rank attends with no rows";
}

TEST_F(ModelTest, AFailedStepIsRepeatedWithTheSameResult) {
  const auto model = Load();
  ASSERT_TRUE(model.ok()) << model.status();
  ASSERT_TRUE(Forward(**model, {{5, 6}, {{0, 2, 0, table_}}, {}}).ok());
  ASSERT_TRUE(Forward(**model, Good()).ok());
  const std::vector<float> wanted = logits_;
  for (ExchangePhase phase : {ExchangePhase::kDispatch, ExchangePhase::kCombine}) {
    exchange_->fail = phase;
    EXPECT_EQ(Forward(**model, Good()).code(), absl::StatusCode::kDeadlineExceeded);
    exchange_->fail.reset();
    ASSERT_TRUE(Forward(**model, Good()).ok()) << "the fault surfaced once";
    EXPECT_EQ(logits_, wanted);
    exchange_->corrupt = phase;
    const absl::Status status = Forward(**model, Good());
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_THAT(
        std::string(status.message()),
        HasSubstr(absl::StrCat(ExchangePhaseName(phase), ": rank 0: from rank 0: malformed")));
    EXPECT_EQ(BlamedPeers(status), std::vector<RankId>{RankId(0)});
    exchange_->corrupt.reset();
    ASSERT_TRUE(Forward(**model, Good()).ok());
    EXPECT_EQ(logits_, wanted);
  }
}

TEST_F(ModelTest, OptionsThatContradictAreRefused) {
  const auto expect = [&](absl::StatusCode code, const std::string& message) {
    const absl::Status status = Load().status();
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  };
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  options_.cache_blocks = 0;
  expect(kInvalid, "cache: want at least one block");
  options_.cache_blocks = int64_t{1} << 40;
  expect(kInvalid, "cache");
  options_.cache_blocks = int64_t{1} << 30;
  expect(absl::StatusCode::kResourceExhausted, "cache of 1073741824 blocks");
  options_.cache_blocks = 4;
  options_.max_batch_rows = 9;
  expect(kInvalid, "exchange: want messages of up to");
  options_.max_batch_rows = 0;
  expect(kInvalid, "at least one row");
  options_.max_batch_rows = 8;
  options_.rank = RankId(1);
  expect(kInvalid, "rank: want the exchange's 0, found 1");
  options_.rank = RankId(0);
  options_.fp8_activations = true;
  expect(kInvalid, "fp8 activations: want FP8 weights");
  options_.fp8_activations = false;
  placement_ = *ExpertPlacement::Contiguous(2, config_.RoutedExperts());
  expect(kInvalid, "expert placement: want 1 workers, found 2");
  placement_ = *ExpertPlacement::Contiguous(1, std::vector<int>{0, 16});
  expect(kInvalid, "expert placement: want 4 layers, found 2");
  placement_ = *ExpertPlacement::Contiguous(1, std::vector<int>{0, 16, 15, 16});
  expect(kInvalid, "layer 2: want 16 experts, found 15");
}

TEST_F(ModelTest, CountsTheRowsOfEachExpert) {
  const auto model = Load();
  ASSERT_TRUE(model.ok()) << model.status();
  const std::vector<int> routed = config_.RoutedExperts();
  const size_t most = config_.MaxRoutedExperts();
  const auto rows_of = [&](size_t layer) {
    const absl::Span<const int64_t> layer_tokens =
        (*model)->expert_tokens().subspan(layer * most, most);
    return std::accumulate(layer_tokens.begin(), layer_tokens.end(), int64_t{0});
  };
  ASSERT_EQ((*model)->expert_tokens().size(), routed.size() * most);
  for (int64_t steps = 1; steps <= 2; ++steps) {
    ASSERT_TRUE(Forward(**model, Good()).ok());
    for (size_t layer = 0; layer < routed.size(); ++layer) {
      EXPECT_EQ(rows_of(layer), routed[layer] == 0 ? 0 : steps * 3 * config_.MaxExpertsPerToken())
          << "layer " << layer;
    }
  }
}

TEST_F(ModelTest, PlacementsChangeOnlyToExpertsThatAreThere) {
  const auto model = Load();
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_TRUE((*model)->InstallPlacement(placement_, {}).ok());
  const auto two = ExpertPlacement::Contiguous(2, config_.RoutedExperts());
  EXPECT_EQ((*model)->InstallPlacement(*two, {}).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ModelTest, MultiTokenPredictionIsNotTouched) {
  CheckpointCopy copy("v3");
  std::erase_if(copy.tensors,
                [](const auto& item) { return item.first.rfind("model.layers.4.", 0) == 0; });
  copy.WriteSingle();
  folder_ = copy.folder();
  EXPECT_TRUE(Load().ok());
}

// An embedding that serves as head too: the same as a head of the same values.
TEST_F(ModelTest, TiedEmbeddings) {
  CheckpointCopy copy("v3");
  copy.tensors["lm_head.weight"] = copy.tensors["model.embed_tokens.weight"];
  copy.WriteSingle();
  folder_ = copy.folder();
  auto model = Load();
  ASSERT_TRUE(model.ok()) << model.status();
  ASSERT_TRUE(Forward(**model, Good()).ok());
  const std::vector<float> wanted = logits_;

  copy.tensors.erase("lm_head.weight");
  copy.WriteSingle();
  config_.tie_word_embeddings = true;
  model = Load();
  ASSERT_TRUE(model.ok()) << model.status();
  ASSERT_TRUE(Forward(**model, Good()).ok());
  EXPECT_EQ(logits_, wanted);
}

}  // namespace
}  // namespace shoal
