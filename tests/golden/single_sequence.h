// SPDX-License-Identifier: Apache-2.0
// One rank, one sequence, one backend: what the golden tests feed and look into.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "engine/config/read_model_config.h"
#include "engine/device/kernels.h"
#include "engine/model/model.h"
#include "engine/parallel/local.h"
#include "gtest/gtest.h"
#include "tests/golden/recording_kernels.h"

namespace shoal {

// One rank, one sequence.
class SingleSequence {
 public:
  SingleSequence(const std::string& folder, const std::string& backend, bool fp8_activations)
      : kernels_(*CreateKernels(backend, {})) {
    auto config = ReadModelConfig(folder);
    EXPECT_TRUE(config.ok()) << config.status();
    config_ = *config;
    ModelOptions options;
    options.max_batch_rows = options.max_logit_rows = 1024;
    options.block_tokens = 16;
    options.cache_blocks = 64;
    options.fp8_activations = fp8_activations;
    exchange_ = std::make_unique<LocalExchange>(
        Model::MaxMessageBytes(config_, kernels_, options.max_batch_rows));
    const auto placement = ExpertPlacement::Contiguous(1, config_.RoutedExperts());
    auto model = Model::Load(folder, config_, *placement, options, kernels_, *exchange_);
    EXPECT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    model_->SetLayerObserver([this](int, TensorView output) {
      layer_outputs.emplace_back(output.f32(), output.f32() + output.elements());
    });
    // Blocks in an order of their own.
    for (int i = 0; i < 64; ++i) block_table_.push_back(BlockId(i * 37 % 64));
  }

  // Logits of all rows when `tokens` follow what was fed before.
  std::vector<float> Feed(const std::vector<int32_t>& tokens) {
    kernels_.Clear();
    layer_outputs.clear();
    Batch batch;
    batch.tokens = tokens;
    const int32_t rows = static_cast<int32_t>(tokens.size());
    batch.sequences = {{0, rows, position_, block_table_}};
    for (int32_t i = 0; i < rows; ++i) batch.logit_rows.push_back(i);
    std::vector<float> logits(tokens.size() * config_.vocab_size);
    const absl::Status status =
        model_->Forward({Epoch(1), StepId(++step_)}, batch,
                        TensorView(logits.data(), DType::kF32, {rows, config_.vocab_size}));
    EXPECT_TRUE(status.ok()) << status;
    position_ += rows;
    return logits;
  }
  void Restart() { position_ = 0; }

  const ModelConfig& config() const { return config_; }
  const RecordingKernels& kernels() const { return kernels_; }
  std::vector<std::vector<float>> layer_outputs;

 private:
  RecordingKernels kernels_;
  ModelConfig config_;
  std::unique_ptr<Exchange> exchange_;
  std::unique_ptr<Model> model_;
  std::vector<BlockId> block_table_;
  int32_t position_ = 0;
  int64_t step_ = 0;
};

// The most probable token after the last row.
inline int32_t Best(const std::vector<float>& logits, size_t vocab) {
  const auto last = logits.end() - vocab;
  return static_cast<int32_t>(std::max_element(last, logits.end()) - last);
}

}  // namespace shoal
