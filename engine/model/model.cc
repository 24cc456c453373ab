// SPDX-License-Identifier: Apache-2.0
#include "engine/model/model.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/cache/kv_cache.h"
#include "engine/config/rope.h"
#include "engine/model/batch_check.h"
#include "engine/model/decoder_layer.h"
#include "engine/model/expert_scratch.h"
#include "engine/model/step_context.h"
#include "engine/weights/checkpoint.h"
#include "engine/weights/loader.h"

namespace shoal {
namespace {

class DecoderModel final : public Model {
 public:
  DecoderModel(const ModelConfig& config, const ExpertPlacement& placement,
               const ModelOptions& options, Kernels& kernels, Exchange& exchange)
      : config_(config),
        placement_(placement),
        targets_(placement, options.rank),
        options_(options),
        kernels_(kernels),
        exchange_(exchange),
        experts_(exchange.world_size(), options.max_batch_rows, config.MaxRoutedExperts(),
                 config.MaxExpertsPerToken(), static_cast<int>(config.layers.size())) {}

  absl::Status LoadFrom(const std::string& directory);

  const ModelConfig& config() const override { return config_; }
  absl::Status Forward(const StepTag& tag, const Batch& batch, TensorView logits) override;
  void SetLayerObserver(std::function<void(int, TensorView)> observer) override {
    observer_ = std::move(observer);
  }
  absl::Status InstallPlacement(const ExpertPlacement& placement,
                                absl::Span<const int> host_of_rank) override;
  absl::Span<const int64_t> expert_tokens() const override { return experts_.expert_tokens; }
  int64_t weight_bytes() const override { return weight_bytes_; }
  int64_t bytes_read() const override { return bytes_read_; }

 private:
  absl::Status LoadLayers(WeightLoader& loader);
  absl::Status AllocateStep();
  void PlaceRows(const Batch& batch);

  ModelConfig config_;
  const ExpertPlacement placement_;  // that it was loaded for
  ExpertTargets targets_;            // under the present one
  ModelOptions options_;
  Kernels& kernels_;
  Exchange& exchange_;

  DeviceTensor embed_tokens_;
  std::vector<DecoderLayer> layers_;
  DeviceTensor norm_;
  std::unique_ptr<PreparedWeight> lm_head_;
  RopeTables rope_;
  std::unique_ptr<KvCache> cache_;
  int64_t weight_bytes_ = 0;
  int64_t bytes_read_ = 0;

  std::unique_ptr<Stream> stream_;
  std::unique_ptr<DeviceBuffer> arena_memory_;
  ExpertScratch experts_;
  std::vector<int32_t> positions_;  // of the rows of the step
  std::vector<int64_t> slots_;
  BatchLimits limits_;
  std::function<void(int, TensorView)> observer_;
};

// Loads all layers, several at a time: packing weights takes longer than reading them.
absl::StatusOr<std::vector<DecoderLayer>> LoadDecoderLayers(const LayerLoadContext& context,
                                                            int threads) {
  constexpr int kMostThreads = 8;
  const int layers = static_cast<int>(context.config.layers.size());
  if (threads == 0) {
    threads = std::min(kMostThreads, static_cast<int>(std::thread::hardware_concurrency()));
  }
  std::vector<absl::StatusOr<DecoderLayer>> loaded(layers);
  std::atomic<int> next{0};
  std::atomic<bool> failed{false};
  const auto load = [&] {
    for (int i = next++; i < layers && !failed; i = next++) {
      loaded[i] = DecoderLayer::Load(context, i);
      if (!loaded[i].ok()) failed = true;
    }
  };
  std::vector<std::thread> others;
  for (int i = 1; i < std::min(threads, layers); ++i) others.emplace_back(load);
  load();
  for (std::thread& thread : others) thread.join();

  std::vector<DecoderLayer> result;
  if (failed) {
    for (absl::StatusOr<DecoderLayer>& layer : loaded) {
      // Layers that were never begun hold their default, Unknown.
      if (!layer.ok() && !absl::IsUnknown(layer.status())) return layer.status();
    }
  }
  for (absl::StatusOr<DecoderLayer>& layer : loaded) result.push_back(*std::move(layer));
  return result;
}

absl::Status DecoderModel::LoadFrom(const std::string& directory) {
  SHOAL_RETURN_IF_ERROR(kernels_.Reserve(options_.max_batch_rows, config_));
  SHOAL_ASSIGN_OR_RETURN(const auto checkpoint, Checkpoint::Open(directory));
  SHOAL_ASSIGN_OR_RETURN(const auto loader,
                         WeightLoader::Create(*checkpoint, config_, placement_, options_.rank,
                                              kernels_, options_.progress));
  SHOAL_ASSIGN_OR_RETURN(
      cache_, KvCache::Create(
                  MakeCacheLayout(config_, static_cast<int>(DTypeBytes(kernels_.cache_dtype()))),
                  options_.cache_blocks, options_.block_tokens, kernels_));
  SHOAL_RETURN_IF_ERROR(LoadLayers(*loader));
  weight_bytes_ = loader->weight_bytes();
  bytes_read_ = loader->bytes_read();
  return AllocateStep();
}

absl::Status DecoderModel::LoadLayers(WeightLoader& loader) {
  LinearOptions linear;
  linear.fp8_activations = options_.fp8_activations;
  linear.ue8m0_scales = config_.quant.has_value() && config_.quant->ue8m0;
  // One table serves all layers: they share their rope. No position beyond the cache can occur.
  const RopeConfig& rope = std::get<MlaConfig>(config_.layers[0].attention).rope;
  rope_ = MakeRopeTables(rope, std::min(config_.max_position_embeddings, cache_->tokens()));
  const LayerLoadContext context = {.loader = loader,
                                    .config = config_,
                                    .placement = placement_,
                                    .rank = options_.rank,
                                    .rope = {.cos = rope_.cos, .sin = rope_.sin, .dim = rope.dim},
                                    .linear = linear,
                                    .activation_dtype = kernels_.activation_dtype(),
                                    .max_rows = options_.max_batch_rows};

  SHOAL_ASSIGN_OR_RETURN(embed_tokens_, loader.Table("model.embed_tokens.weight"));
  SHOAL_ASSIGN_OR_RETURN(layers_, LoadDecoderLayers(context, options_.load_threads));
  SHOAL_ASSIGN_OR_RETURN(norm_, loader.Vector("model.norm.weight"));
  const char* head = config_.tie_word_embeddings ? "model.embed_tokens.weight" : "lm_head.weight";
  SHOAL_ASSIGN_OR_RETURN(lm_head_, loader.Linear(head, LinearOptions()));
  return absl::OkStatus();
}

// Sizes everything a step needs for the largest one, so that Forward allocates nothing.
absl::Status DecoderModel::AllocateStep() {
  Arena counter;
  counter.New(DType::kF32, {options_.max_batch_rows, config_.hidden_size});  // x
  for (const DecoderLayer& layer : layers_) layer.DeclareScratch(counter, options_.max_batch_rows);
  counter.New(DType::kF32, {options_.max_logit_rows, config_.hidden_size});  // last rows
  counter.New(DType::kF32, {options_.max_logit_rows, config_.hidden_size});  // normalised
  SHOAL_ASSIGN_OR_RETURN(arena_memory_, kernels_.Allocate(counter.peak()));
  positions_.reserve(options_.max_batch_rows);
  slots_.reserve(options_.max_batch_rows);
  stream_ = kernels_.NewStream();
  limits_ = {.max_rows = options_.max_batch_rows,
             .max_logit_rows = options_.max_logit_rows,
             .vocab_size = config_.vocab_size,
             .positions = std::min(config_.max_position_embeddings, cache_->tokens()),
             .blocks = cache_->blocks(),
             .block_tokens = cache_->block_tokens()};
  return absl::OkStatus();
}

void DecoderModel::PlaceRows(const Batch& batch) {
  positions_.clear();
  slots_.clear();
  for (const AttendSequence& sequence : batch.sequences) {
    for (int32_t i = 0; i < sequence.row_count; ++i) {
      const int32_t position = sequence.start_position + i;
      positions_.push_back(position);
      slots_.push_back(CacheSlot(sequence.block_table, position, cache_->block_tokens()));
    }
  }
}

absl::Status DecoderModel::Forward(const StepTag& tag, const Batch& batch, TensorView logits) {
  SHOAL_RETURN_IF_ERROR(CheckBatch(batch, limits_));
  const int64_t wanted = static_cast<int64_t>(batch.logit_rows.size());
  SHOAL_CHECK(wanted == 0 || (logits.dtype() == DType::kF32 && logits.dim(0) == wanted &&
                              logits.dim(1) == config_.vocab_size));
  PlaceRows(batch);
  Arena arena(arena_memory_->data(), arena_memory_->bytes());
  StepContext step = {.kernels = kernels_,
                      .stream = *stream_,
                      .arena = arena,
                      .exchange = exchange_,
                      .targets = targets_,
                      .cache = *cache_,
                      .experts = experts_,
                      .tag = tag,
                      .positions = positions_,
                      .slots = slots_,
                      .sequences = batch.sequences,
                      .rows = static_cast<int64_t>(batch.tokens.size())};

  ResidualState state = {arena.New(DType::kF32, {step.rows, config_.hidden_size})};
  kernels_.Embed(*stream_, batch.tokens, embed_tokens_.view, state.x);
  for (size_t i = 0; i < layers_.size() && stream_->ok(); ++i) {
    layers_[i].Forward(step, state);
    if (observer_ && stream_->ok()) observer_(static_cast<int>(i), state.x);
  }
  if (wanted > 0 && stream_->ok()) {
    const TensorView rows = arena.New(DType::kF32, {wanted, config_.hidden_size});
    kernels_.GatherRows(*stream_, state.x, batch.logit_rows, rows.data());
    const TensorView h = RmsNorm(step, rows, norm_.view, config_.rms_norm_eps);
    kernels_.Linear(*stream_, h, *lm_head_, logits);
  }
  return stream_->Finish();
}

absl::Status DecoderModel::InstallPlacement(const ExpertPlacement& placement,
                                            absl::Span<const int> host_of_rank) {
  SHOAL_RETURN_IF_ERROR(placement.CheckFits(exchange_.world_size(), config_.RoutedExperts()));
  for (size_t i = 0; i < layers_.size(); ++i) {
    if (layers_[i].moe() == nullptr) continue;
    for (ExpertId expert : placement.HeldBy(static_cast<int>(i), exchange_.rank())) {
      if (layers_[i].moe()->Holds(expert)) continue;
      return absl::FailedPreconditionError(absl::StrCat(
          "expert placement: layer ", i, " expert ", expert.value(), " is to be held by rank ",
          exchange_.rank().value(), ", which never loaded it"));
    }
  }
  targets_ = ExpertTargets(placement, exchange_.rank(), host_of_rank);
  return absl::OkStatus();
}

}  // namespace

size_t Model::MaxMessageBytes(const ModelConfig& config, const Kernels& kernels,
                              int64_t max_batch_rows) {
  size_t most = 1;  // an exchange without messages still has buffers
  for (const LayerConfig& layer : config.layers) {
    const auto* moe = std::get_if<MoeConfig>(&layer.ffn);
    if (moe == nullptr) continue;
    most =
        std::max(most, MaxExpertMessageBytes(MakeMessageShape(
                           *moe, config.hidden_size, kernels.activation_dtype(), max_batch_rows)));
  }
  return most;
}

absl::StatusOr<std::unique_ptr<Model>> Model::Load(const std::string& directory,
                                                   const ModelConfig& config,
                                                   const ExpertPlacement& placement,
                                                   const ModelOptions& options, Kernels& kernels,
                                                   Exchange& exchange) {
  if (options.max_batch_rows < 1 || options.max_logit_rows < 1) {
    return absl::InvalidArgumentError("a step needs at least one row");
  }
  if (options.rank != exchange.rank()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "rank: want the exchange's ", exchange.rank().value(), ", found ", options.rank.value()));
  }
  const size_t wanted = MaxMessageBytes(config, kernels, options.max_batch_rows);
  if (exchange.max_message_bytes() < wanted) {
    return absl::InvalidArgumentError(absl::StrCat("exchange: want messages of up to ", wanted,
                                                   " bytes, found ", exchange.max_message_bytes()));
  }
  SHOAL_RETURN_IF_ERROR(placement.CheckFits(exchange.world_size(), config.RoutedExperts()));
  if (options.fp8_activations && !config.quant.has_value()) {
    return absl::InvalidArgumentError(
        "fp8 activations: want FP8 weights, found no quantization_config");
  }
  auto model = std::make_unique<DecoderModel>(config, placement, options, kernels, exchange);
  SHOAL_RETURN_IF_ERROR(model->LoadFrom(directory));
  return model;
}

}  // namespace shoal
