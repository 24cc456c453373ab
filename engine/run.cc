// SPDX-License-Identifier: Apache-2.0
// Read this first. A prompt becomes tokens, the model turns rows of tokens into logits, the sampler
// turns logits into the next token, and the decoder turns tokens into text. Everything else in this
// repository exists to do the same for many prompts on many machines.
#include "engine/run.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/cache/kv_cache.h"
#include "engine/config/read_model_config.h"
#include "engine/device/kernels.h"
#include "engine/model/model.h"
#include "engine/parallel/local.h"
#include "engine/sample/sampler.h"
#include "engine/text/stream_decoder.h"
#include "engine/text/tokenizer.h"
#include "engine/tokenizer_match.h"

namespace shoal {
namespace {

constexpr int32_t kChunk = 512;  // prompt rows of one step
constexpr int kBlockTokens = 64;

absl::StatusOr<std::vector<int32_t>> PromptTokens(const RunOptions& options,
                                                  const ModelConfig& config,
                                                  const Tokenizer& tokenizer) {
  SHOAL_RETURN_IF_ERROR(CheckTokenizerMatches(options.model, config, tokenizer));
  std::vector<int32_t> tokens = tokenizer.Encode(options.prompt, Tokenizer::Matching::kAddedTokens);
  if (const auto bos = tokenizer.bos_token_id(); bos.has_value()) {
    if (tokens.empty() || tokens[0] != *bos) tokens.insert(tokens.begin(), *bos);
  }
  const int64_t room = config.max_position_embeddings - static_cast<int64_t>(tokens.size());
  if (tokens.empty() || room < options.max_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("prompt of ", tokens.size(), " tokens and ",
                                                   options.max_tokens, " to generate: want 1..",
                                                   config.max_position_embeddings, " in all"));
  }
  return tokens;
}

}  // namespace

absl::Status Run(const RunOptions& options, const std::function<void(absl::string_view)>& emit) {
  SHOAL_ASSIGN_OR_RETURN(const ModelConfig config, ReadModelConfig(options.model));
  SHOAL_ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Load(options.model));
  SHOAL_ASSIGN_OR_RETURN(std::vector<int32_t> tokens, PromptTokens(options, config, *tokenizer));
  const int32_t prompt_tokens = static_cast<int32_t>(tokens.size());

  // A world of one rank that holds every expert, and a cache for one sequence.
  SHOAL_ASSIGN_OR_RETURN(const auto kernels,
                         CreateKernels(options.backend, {.threads = options.threads}));
  ModelOptions model_options;
  model_options.max_batch_rows = std::min(prompt_tokens, kChunk);
  model_options.max_logit_rows = 1;
  model_options.block_tokens = kBlockTokens;
  model_options.cache_blocks = BlocksForTokens(prompt_tokens + options.max_tokens, kBlockTokens);
  model_options.fp8_activations = options.fp8_activations;
  model_options.progress = options.progress;
  LocalExchange exchange(Model::MaxMessageBytes(config, *kernels, model_options.max_batch_rows));
  SHOAL_ASSIGN_OR_RETURN(const auto placement,
                         ExpertPlacement::Contiguous(1, config.RoutedExperts()));
  SHOAL_ASSIGN_OR_RETURN(const auto model, Model::Load(options.model, config, placement,
                                                       model_options, *kernels, exchange));
  std::vector<BlockId> block_table;
  for (int32_t i = 0; i < model_options.cache_blocks; ++i) block_table.push_back(BlockId(i));

  SamplingParams sampling = options.sampling;
  sampling.end_token_ids = config.eos_token_ids;
  Sampler sampler(config.vocab_size, tokenizer->vocab_size());
  StreamDecoder decoder(*tokenizer, /*skip_special=*/true);
  std::vector<float> logits(config.vocab_size);
  int32_t computed = 0;
  for (int64_t step = 0; static_cast<int>(tokens.size()) - prompt_tokens < options.max_tokens;
       ++step) {
    // The prompt in chunks, then the newest token alone: rows of a step either way.
    const int32_t rows = std::min(static_cast<int32_t>(tokens.size()) - computed, kChunk);
    Batch batch;
    batch.tokens.assign(tokens.begin() + computed, tokens.begin() + computed + rows);
    batch.sequences = {{0, rows, computed, block_table}};
    computed += rows;
    const bool complete = computed == static_cast<int32_t>(tokens.size());
    if (complete) batch.logit_rows = {rows - 1};
    SHOAL_RETURN_IF_ERROR(
        model->Forward({.epoch = Epoch(1), .step = StepId(step)}, batch,
                       TensorView(logits.data(), DType::kF32, {complete, config.vocab_size})));
    if (!complete) continue;

    SHOAL_ASSIGN_OR_RETURN(const int32_t next,
                           sampler.Sample(logits, sampling, tokens, prompt_tokens));
    const auto& ends = config.eos_token_ids;
    if (!options.ignore_eos && std::find(ends.begin(), ends.end(), next) != ends.end()) break;
    tokens.push_back(next);
    emit(decoder.Push(next));
  }
  emit(decoder.Flush());
  return absl::OkStatus();
}

}  // namespace shoal
