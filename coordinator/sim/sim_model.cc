// SPDX-License-Identifier: Apache-2.0
#include "coordinator/sim/sim_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/sim/random.h"
#include "engine/base/status_macros.h"
#include "engine/config/expert_targets.h"
#include "engine/model/expert_rows.h"
#include "engine/parallel/blamed_peers.h"
#include "engine/parallel/expert_messages.h"
#include "engine/sample/sampler.h"

namespace shoal::sim {
namespace {

constexpr int64_t kRowBytes = sizeof(uint64_t);

// --- The mathematics ---

uint64_t Embed(int32_t token, int64_t position) {
  return MixBits(static_cast<uint64_t>(token) + 1, static_cast<uint64_t>(position));
}
uint64_t CacheRow(uint64_t x, int layer) { return MixBits(x, 1000 + static_cast<uint64_t>(layer)); }
uint64_t ExpertOutput(uint64_t x, int layer, int expert) {
  return MixBits(x, 1'000'000 * static_cast<uint64_t>(layer + 1) + static_cast<uint64_t>(expert));
}

// Chooses experts_per_token different experts by a row's hash.
class Router {
 public:
  explicit Router(const SimModelShape& shape) : shape_(shape) {
    double sum = 0;
    for (int e = 0; e < shape.experts; ++e) {
      cumulative_.push_back(sum += std::pow(e + 1, -shape.skew));
    }
  }
  void Route(uint64_t x, int layer, int32_t* experts) const {
    for (int k = 0; k < shape_.experts_per_token; ++k) {
      const uint64_t draw = MixBits(x, 77 + static_cast<uint64_t>(layer * 16 + k));
      const double at = static_cast<double>(draw >> 11) * 0x1p-53 * cumulative_.back();
      auto expert = static_cast<int32_t>(
          std::upper_bound(cumulative_.begin(), cumulative_.end() - 1, at) - cumulative_.begin());
      while (std::find(experts, experts + k, expert) != experts + k) {
        expert = (expert + 1) % shape_.experts;
      }
      experts[k] = expert;
    }
  }

 private:
  const SimModelShape shape_;
  std::vector<double> cumulative_;
};

void WriteLogits(const SimModelShape& shape, uint64_t x, float* logits) {
  if (shape.overflow_one_in > 0 && MixBits(x, 5000) % shape.overflow_one_in == 0) {
    std::fill_n(logits, kVocabulary, std::numeric_limits<float>::quiet_NaN());
    return;
  }
  for (int32_t v = 0; v < kVocabulary; ++v) {
    logits[v] = static_cast<float>(MixBits(x, static_cast<uint64_t>(v)) % 4096) / 512.0f - 4.0f;
  }
}

// --- One rank of it ---

class SimModel final : public Model {
 public:
  SimModel(const SimModelShape& shape, const ExpertPlacement& placement, const ModelOptions& options,
           Exchange& exchange, ComputeHook compute)
      : shape_(shape),
        config_(MakeModelConfig(shape)),
        router_(shape),
        options_(options),
        targets_(placement, options.rank),
        exchange_(exchange),
        compute_(std::move(compute)),
        messages_{.max_rows = options.max_batch_rows,
                  .row_bytes = kRowBytes,
                  .experts = shape.experts,
                  .slots = shape.experts_per_token},
        rows_(exchange.world_size(), options.max_batch_rows, shape.experts,
              shape.experts_per_token),
        expert_tokens_(size_t(shape.moe_layers + 1) * shape.experts),
        bytes_(exchange.world_size()),
        received_(exchange.world_size()),
        dispatched_(exchange.world_size()) {
    for (int layer = 0; layer <= shape.moe_layers; ++layer) {
      pools_.emplace_back(static_cast<size_t>(options.cache_blocks) * options.block_tokens);
      std::vector<bool>& held = held_.emplace_back(shape.experts);
      if (layer == 0) continue;
      for (const ExpertId expert : placement.HeldBy(layer, options.rank)) {
        held[expert.value()] = true;
      }
    }
  }

  const ModelConfig& config() const override { return config_; }
  absl::Status Forward(const StepTag& tag, const Batch& batch, TensorView logits) override;
  void SetLayerObserver(std::function<void(int, TensorView)>) override {}
  absl::Status InstallPlacement(const ExpertPlacement& placement,
                                absl::Span<const int> host_of_rank) override;
  absl::Span<const int64_t> expert_tokens() const override { return expert_tokens_; }
  int64_t weight_bytes() const override { return 0; }
  int64_t bytes_read() const override { return 0; }

 private:
  size_t Slot(const AttendSequence& sequence, int64_t position) const {
    const BlockId block = sequence.block_table[position / options_.block_tokens];
    return static_cast<size_t>(block.value()) * options_.block_tokens +
           static_cast<size_t>(position % options_.block_tokens);
  }
  void Attend(const Batch& batch, int layer);
  absl::Status Experts(const StepTag& tag, int layer);
  absl::Status AnswerPeers(const ExchangeTag& dispatch, const ExchangeTag& combine, int layer);

  const SimModelShape shape_;
  const ModelConfig config_;
  const Router router_;
  const ModelOptions options_;
  ExpertTargets targets_;
  Exchange& exchange_;
  const ComputeHook compute_;
  const ExpertMessageShape messages_;
  std::vector<std::vector<uint64_t>> pools_;  // by layer, by slot
  std::vector<std::vector<bool>> held_;       // by layer, by expert

  std::vector<uint64_t> x_;       // [T]
  std::vector<int32_t> experts_;  // [T, K]
  std::vector<uint64_t> outputs_;  // [T, K]
  ExpertRows rows_;
  std::vector<int64_t> expert_tokens_;  // [layers, experts]
  std::vector<size_t> bytes_;
  std::vector<absl::Span<const std::byte>> received_;
  std::vector<DispatchMessage> dispatched_;
};

absl::Status SimModel::InstallPlacement(const ExpertPlacement& placement,
                                        absl::Span<const int> host_of_rank) {
  for (int layer = 1; layer < placement.layers(); ++layer) {
    for (const ExpertId expert : placement.HeldBy(layer, options_.rank)) {
      if (held_[layer][expert.value()]) continue;
      return absl::FailedPreconditionError(
          absl::StrCat("layer ", layer, " expert ", expert.value(), " is not loaded"));
    }
  }
  targets_ = ExpertTargets(placement, options_.rank, host_of_rank);
  return absl::OkStatus();
}

absl::Status SimModel::Forward(const StepTag& tag, const Batch& batch, TensorView logits) {
  x_.clear();
  for (const AttendSequence& sequence : batch.sequences) {
    if (shape_.poison && sequence.start_position == 0 &&
        batch.tokens[sequence.first_row] == kPoison) {
      return absl::InternalError("device lost to poison");
    }
    for (int32_t i = 0; i < sequence.row_count; ++i) {
      x_.push_back(
          Embed(batch.tokens[sequence.first_row + i], sequence.start_position + int64_t{i}));
    }
  }
  for (int layer = 0; layer <= shape_.moe_layers; ++layer) {
    Attend(batch, layer);
    SHOAL_RETURN_IF_ERROR(compute_(static_cast<int64_t>(x_.size())));
    if (layer > 0) SHOAL_RETURN_IF_ERROR(Experts(tag, layer));
  }
  for (size_t i = 0; i < batch.logit_rows.size(); ++i) {
    WriteLogits(shape_, x_[batch.logit_rows[i]], logits.f32() + i * kVocabulary);
  }
  return absl::OkStatus();
}

void SimModel::Attend(const Batch& batch, int layer) {
  std::vector<uint64_t>& pool = pools_[layer];
  for (const AttendSequence& sequence : batch.sequences) {
    for (int32_t i = 0; i < sequence.row_count; ++i) {
      pool[Slot(sequence, sequence.start_position + i)] =
          CacheRow(x_[sequence.first_row + i], layer);
    }
  }
  for (const AttendSequence& sequence : batch.sequences) {
    uint64_t context = 0;
    int64_t position = 0;
    for (int32_t i = 0; i < sequence.row_count; ++i) {
      for (; position <= sequence.start_position + i; ++position) {
        context = MixBits(context, pool[Slot(sequence, position)]);
      }
      uint64_t& x = x_[sequence.first_row + i];
      x = MixBits(x, context);
    }
  }
}

absl::Status SimModel::Experts(const StepTag& tag, int layer) {
  const int slots = shape_.experts_per_token;
  experts_.resize(x_.size() * slots);
  outputs_.assign(x_.size() * slots, 0);
  for (size_t t = 0; t < x_.size(); ++t) router_.Route(x_[t], layer, &experts_[t * slots]);

  const ExchangeTag dispatch = {tag.epoch, tag.step, layer, ExchangePhase::kDispatch};
  const ExchangeTag combine = {tag.epoch, tag.step, layer, ExchangePhase::kCombine};
  rows_.PlanDispatch(targets_, layer, experts_, slots);
  for (const int32_t expert : experts_) ++expert_tokens_[layer * shape_.experts + expert];
  for (int r = 0; r < exchange_.world_size(); ++r) {
    const absl::Span<const int32_t> rows = rows_.RowsTo(RankId(r));
    const absl::Span<const ExpertPair> pairs = rows_.PairsTo(RankId(r));
    bytes_[r] = DispatchBytes(messages_, static_cast<int64_t>(rows.size()),
                              static_cast<int64_t>(pairs.size()));
    const absl::Span<std::byte> message = exchange_.SendBuffer(dispatch, RankId(r), tag.deadline);
    if (rows.empty() || message.empty()) continue;
    std::byte* out = WriteDispatch(messages_, static_cast<int64_t>(rows.size()), pairs, message);
    for (const int32_t row : rows) {
      std::memcpy(out, &x_[row], kRowBytes);
      out += kRowBytes;
    }
  }
  SHOAL_RETURN_IF_ERROR(exchange_.Post(dispatch, bytes_));
  SHOAL_RETURN_IF_ERROR(exchange_.Wait(dispatch, tag.deadline, absl::MakeSpan(received_)));
  SHOAL_RETURN_IF_ERROR(AnswerPeers(dispatch, combine, layer));
  exchange_.Release(dispatch);
  SHOAL_RETURN_IF_ERROR(exchange_.Wait(combine, tag.deadline, absl::MakeSpan(received_)));
  for (int r = 0; r < exchange_.world_size(); ++r) {
    const absl::Span<const int32_t> rows = rows_.RowsTo(RankId(r));
    const absl::Span<const ExpertPair> pairs = rows_.PairsTo(RankId(r));
    const absl::StatusOr<const std::byte*> message =
        ParseCombine(messages_, static_cast<int64_t>(pairs.size()), received_[r]);
    if (!message.ok()) return BadMessage(combine, exchange_.rank(), RankId(r), message.status());
    const std::byte* row = *message;
    for (const ExpertPair& pair : pairs) {
      std::memcpy(&outputs_[rows[pair.row] * slots + pair.slot], row, kRowBytes);
      row += kRowBytes;
    }
  }
  exchange_.Release(combine);
  for (size_t t = 0; t < x_.size(); ++t) {
    for (int k = 0; k < slots; ++k) x_[t] = MixBits(x_[t], outputs_[t * slots + k]);
  }
  return absl::OkStatus();
}

absl::Status SimModel::AnswerPeers(const ExchangeTag& dispatch, const ExchangeTag& combine,
                                   int layer) {
  int64_t pairs = 0;
  for (int r = 0; r < exchange_.world_size(); ++r) {
    const absl::StatusOr<DispatchMessage> message = ParseDispatch(messages_, received_[r]);
    if (!message.ok()) return BadMessage(dispatch, exchange_.rank(), RankId(r), message.status());
    dispatched_[r] = *message;
    pairs += static_cast<int64_t>(dispatched_[r].pairs.size());
  }
  SHOAL_RETURN_IF_ERROR(compute_(pairs));
  for (int r = 0; r < exchange_.world_size(); ++r) {
    const DispatchMessage& message = dispatched_[r];
    bytes_[r] = CombineBytes(messages_, static_cast<int64_t>(message.pairs.size()));
    const absl::Span<std::byte> buffer =
        exchange_.SendBuffer(combine, RankId(r), absl::InfiniteFuture());
    if (message.pairs.empty() || buffer.empty()) continue;
    std::byte* out =
        WriteCombine(messages_, static_cast<int64_t>(message.pairs.size()), buffer);
    for (const ExpertPair& pair : message.pairs) {
      if (!held_[layer][pair.expert]) {
        return BlamePeers(
            absl::DataLossError(absl::StrCat(dispatch.ToString(), ": rank ", r,
                                             " sent rows for expert ", pair.expert, ", which rank ",
                                             exchange_.rank().value(), " does not hold")),
            {RankId(r)});
      }
      uint64_t x;
      std::memcpy(&x, message.data + pair.row * kRowBytes, kRowBytes);
      const uint64_t y = ExpertOutput(x, layer, pair.expert);
      std::memcpy(out, &y, kRowBytes);
      out += kRowBytes;
    }
  }
  return exchange_.Post(combine, bytes_);
}

}  // namespace

ModelConfig MakeModelConfig(const SimModelShape& shape) {
  ModelConfig config;
  config.hidden_size = 8;  // a row of it is no smaller than ours
  config.vocab_size = kVocabulary;
  config.max_position_embeddings = shape.max_context;
  config.layers.resize(shape.moe_layers + 1);
  for (int layer = 1; layer <= shape.moe_layers; ++layer) {
    MoeConfig moe;
    moe.router.n_routed_experts = shape.experts;
    moe.router.num_experts_per_tok = shape.experts_per_token;
    config.layers[layer].ffn = moe;
  }
  return config;
}

std::unique_ptr<Model> MakeSimModel(const SimModelShape& shape, const ExpertPlacement& placement,
                                    const ModelOptions& options, Exchange& exchange,
                                    ComputeHook compute) {
  return std::make_unique<SimModel>(shape, placement, options, exchange, std::move(compute));
}

Reference ComputeAlone(const SimModelShape& shape, const Request& request, int32_t choice) {
  const Router router(shape);
  Sampler sampler(kVocabulary, kVocabulary);
  SamplingParams sampling = request.sampling;
  sampling.seed += static_cast<uint64_t>(choice);
  const int slots = shape.experts_per_token;
  std::vector<uint64_t> contexts(shape.moe_layers + 1, 0);
  std::vector<int32_t> experts(slots);
  std::vector<float> logits(kVocabulary);
  const auto advance = [&](int32_t token, int64_t position) {
    uint64_t x = Embed(token, position);
    for (int layer = 0; layer <= shape.moe_layers; ++layer) {
      contexts[layer] = MixBits(contexts[layer], CacheRow(x, layer));
      x = MixBits(x, contexts[layer]);
      if (layer == 0) continue;
      router.Route(x, layer, experts.data());
      const uint64_t row = x;
      for (const int32_t expert : experts) x = MixBits(x, ExpertOutput(row, layer, expert));
    }
    WriteLogits(shape, x, logits.data());
  };

  Reference reference;
  std::vector<int32_t> tokens = request.prompt;
  const int top = std::max(sampling.top_logprobs, 0);
  for (size_t p = 0; p < tokens.size(); ++p) {
    advance(tokens[p], static_cast<int64_t>(p));
    if (!sampling.prompt_logprobs || p + 1 == tokens.size()) continue;
    const absl::Status status =
        sampler.Logprobs(logits, tokens[p + 1], top, reference.prompt_logprobs.emplace_back());
    if (status.ok()) continue;
    reference.finish = FinishReason::kError;
    return reference;
  }
  const auto prompt_tokens = static_cast<int32_t>(request.prompt.size());
  for (int32_t i = 0; i < request.max_tokens; ++i) {
    const auto chosen = sampler.Sample(logits, sampling, tokens, prompt_tokens);
    if (!chosen.ok()) {
      reference.finish = FinishReason::kError;
      break;
    }
    const auto& ends = sampling.end_token_ids;
    if (i >= sampling.min_tokens && std::find(ends.begin(), ends.end(), *chosen) != ends.end()) {
      reference.finish = FinishReason::kStop;
      break;
    }
    if (sampling.top_logprobs >= 0) {
      const absl::Status status =
          sampler.Logprobs(logits, *chosen, top, reference.logprobs.emplace_back());
      SHOAL_CHECK(status.ok());
    }
    tokens.push_back(*chosen);
    reference.tokens.push_back(*chosen);
    advance(*chosen, static_cast<int64_t>(tokens.size()) - 1);
  }
  return reference;
}

}  // namespace shoal::sim
