// SPDX-License-Identifier: Apache-2.0
#include "engine/model/moe.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/parallel/blamed_peers.h"

namespace shoal {

ExpertMessageShape MakeMessageShape(const MoeConfig& config, int hidden_size,
                                    DType activation_dtype, int64_t max_rows) {
  return {.max_rows = max_rows,
          .row_bytes = hidden_size * static_cast<int64_t>(DTypeBytes(activation_dtype)),
          .experts = config.router.n_routed_experts,
          .slots = config.router.num_experts_per_tok};
}

absl::StatusOr<Moe> Moe::Load(WeightLoader& loader, const std::string& prefix,
                              const MoeConfig& config, int layer, int hidden_size,
                              const ExpertPlacement& placement, RankId rank,
                              const LinearOptions& options, DType activation_dtype,
                              int64_t max_rows) {
  Moe moe;
  moe.config_ = config;
  moe.layer_ = layer;
  moe.hidden_size_ = hidden_size;
  moe.activation_dtype_ = activation_dtype;
  moe.shape_ = MakeMessageShape(config, hidden_size, activation_dtype, max_rows);
  SHOAL_ASSIGN_OR_RETURN(moe.gate_, loader.Table(prefix + "gate.weight"));
  if (config.router.topk_method == TopkMethod::kNoAuxTc) {
    SHOAL_ASSIGN_OR_RETURN(moe.e_score_correction_bias_,
                           loader.Vector(prefix + "gate.e_score_correction_bias"));
  }
  if (config.n_shared_experts > 0) {
    SHOAL_ASSIGN_OR_RETURN(moe.shared_experts_,
                           LoadFfn(loader, prefix + "shared_experts.", options));
  }
  moe.experts_.resize(config.router.n_routed_experts);
  for (ExpertId expert : placement.HeldBy(layer, rank)) {
    SHOAL_ASSIGN_OR_RETURN(
        FfnWeights ffn,
        LoadFfn(loader, absl::StrCat(prefix, "experts.", expert.value(), "."), options));
    moe.experts_[expert.value()] = std::make_unique<FfnWeights>(std::move(ffn));
  }
  return moe;
}

Moe::Scratch Moe::Scratch::New(const Moe& moe, Arena& arena, int64_t rows) {
  const int64_t hidden = moe.hidden_size_;
  const int slots = moe.shape_.slots;
  Scratch scratch;
  scratch.logits = arena.New(DType::kF32, {rows, moe.shape_.experts});
  scratch.experts = arena.New(DType::kI32, {rows, slots});
  scratch.weights = arena.New(DType::kF32, {rows, slots});
  scratch.rows = arena.New(moe.activation_dtype_, {rows, hidden});
  if (moe.shared_experts_.has_value()) scratch.shared = arena.New(DType::kF32, {rows, hidden});
  const int64_t grouped = moe.shape_.max_rows * slots;
  scratch.grouped = arena.New(moe.activation_dtype_, {grouped, hidden});
  scratch.grouped_out = arena.New(moe.activation_dtype_, {grouped, hidden});
  scratch.out = arena.New(DType::kF32, {rows, hidden});
  return scratch;
}

TensorView Moe::Forward(StepContext& step, TensorView h) const {
  const Scratch scratch = Scratch::New(*this, step.arena, step.rows);
  step.kernels.RouterLogits(step.stream, h, gate_.view, scratch.logits);
  step.kernels.Route(step.stream, config_.router, scratch.logits, e_score_correction_bias_.view,
                     scratch.experts, scratch.weights);
  step.kernels.Convert(step.stream, h, scratch.rows);
  if (absl::Status status = Exchange(step, scratch, h); !status.ok()) {
    step.stream.Fail(std::move(status));
    return scratch.out;
  }
  return scratch.out;
}

absl::Status Moe::Exchange(StepContext& step, const Scratch& scratch, TensorView h) const {
  const ExchangeTag dispatch = {step.tag.epoch, step.tag.step, layer_, ExchangePhase::kDispatch};
  const ExchangeTag combine = {step.tag.epoch, step.tag.step, layer_, ExchangePhase::kCombine};

  SHOAL_RETURN_IF_ERROR(Dispatch(step, scratch, dispatch));
  if (shared_experts_.has_value()) FfnForward(step, *shared_experts_, h, scratch.shared);
  SHOAL_RETURN_IF_ERROR(ReceiveDispatch(step, dispatch));
  SHOAL_RETURN_IF_ERROR(ComputeExperts(step, scratch, combine));
  step.exchange.Release(dispatch);
  SHOAL_RETURN_IF_ERROR(ReceiveCombine(step, combine));
  step.kernels.Combine(
      step.stream,
      {.rows = absl::MakeConstSpan(step.experts.result_rows).subspan(0, step.rows * shape_.slots),
       .row_dtype = activation_dtype_,
       .weights = scratch.weights,
       .shared = scratch.shared,
       .y = scratch.out});
  step.exchange.Release(combine);
  return absl::OkStatus();
}

// Sends each row once to every rank that holds one of its experts.
absl::Status Moe::Dispatch(StepContext& step, const Scratch& scratch,
                           const ExchangeTag& tag) const {
  ExpertScratch& experts = step.experts;
  const absl::Span<const int32_t> chosen(scratch.experts.as<int32_t>(),
                                         static_cast<size_t>(scratch.experts.elements()));
  experts.rows.PlanDispatch(step.targets, layer_, chosen, shape_.slots);
  int64_t* tokens = &experts.expert_tokens[int64_t{layer_} * experts.max_experts];
  for (int32_t expert : chosen) ++tokens[expert];
  for (int r = 0; r < step.exchange.world_size(); ++r) {
    const RankId peer(r);
    const absl::Span<const int32_t> rows = experts.rows.RowsTo(peer);
    const absl::Span<const ExpertPair> pairs = experts.rows.PairsTo(peer);
    experts.message_bytes[r] = DispatchBytes(shape_, rows.size(), pairs.size());
    const absl::Span<std::byte> message = step.exchange.SendBuffer(tag, peer, step.tag.deadline);
    // An empty buffer is a wait that failed, and Post says how; or an absent peer, to whom no rows
    // go under a placement of this epoch. If some did, they would be missed in the combine.
    if (rows.empty() || message.empty()) continue;
    step.kernels.GatherRows(step.stream, scratch.rows, rows,
                            WriteDispatch(shape_, rows.size(), pairs, message));
  }
  return step.exchange.Post(tag, experts.message_bytes);
}

absl::Status Moe::ReceiveDispatch(StepContext& step, const ExchangeTag& tag) const {
  ExpertScratch& experts = step.experts;
  const RankId self = step.exchange.rank();
  SHOAL_RETURN_IF_ERROR(
      step.exchange.Wait(tag, step.tag.deadline, absl::MakeSpan(experts.received)));
  for (int r = 0; r < step.exchange.world_size(); ++r) {
    const absl::StatusOr<DispatchMessage> message = ParseDispatch(shape_, experts.received[r]);
    if (!message.ok()) return BadMessage(tag, self, RankId(r), message.status());
    experts.messages[r] = *message;
    for (const ExpertPair& pair : message->pairs) {
      if (experts_[pair.expert] != nullptr) continue;
      return BlamePeers(absl::DataLossError(absl::StrCat(
                            tag.ToString(), ": rank ", r, " sent rows for expert ", pair.expert,
                            ", which rank ", self.value(), " does not hold")),
                        {RankId(r)});
    }
  }
  experts.rows.PlanCompute(experts.messages);
  return absl::OkStatus();
}

// Runs the received rows through their experts and sends the results back, in batches that fit the
// scratch.
absl::Status Moe::ComputeExperts(StepContext& step, const Scratch& scratch,
                                 const ExchangeTag& tag) const {
  ExpertScratch& experts = step.experts;
  for (int r = 0; r < step.exchange.world_size(); ++r) {
    const int64_t pairs = experts.messages[r].pairs.size();
    experts.message_bytes[r] = CombineBytes(shape_, pairs);
    if (!step.exchange.Present(RankId(r))) continue;
    const absl::Span<std::byte> message =
        step.exchange.SendBuffer(tag, RankId(r), step.tag.deadline);
    if (message.empty()) return step.exchange.Post(tag, experts.message_bytes);
    if (pairs > 0) experts.replies[r] = WriteCombine(shape_, pairs, message);
  }
  const absl::Span<const ExpertRows::Run> runs = experts.rows.Runs();
  const int64_t capacity = scratch.grouped.dim(0);
  for (size_t begin = 0; begin < runs.size();) {
    experts.batch_experts.clear();
    experts.batch_offsets.clear();
    int64_t rows = 0;
    size_t end = begin;
    for (; end < runs.size() && rows + runs[end].count <= capacity; ++end) {
      const ExpertRows::Run& run = runs[end];
      if (end == begin || run.expert != runs[end - 1].expert) {
        experts.batch_experts.push_back(experts_[run.expert].get());
        experts.batch_offsets.push_back(static_cast<int32_t>(rows));
      }
      const DispatchMessage& message = experts.messages[run.source];
      const TensorView source(const_cast<std::byte*>(message.data), activation_dtype_,
                              {message.rows, hidden_size_});
      step.kernels.GatherRows(step.stream, source, experts.rows.Indices(run),
                              scratch.grouped.Rows(rows, run.count).data());
      rows += run.count;
    }
    experts.batch_offsets.push_back(static_cast<int32_t>(rows));
    const TensorView out = scratch.grouped_out.Rows(0, rows);
    step.kernels.GroupedFfn(step.stream, {.x = scratch.grouped.Rows(0, rows),
                                          .experts = experts.batch_experts,
                                          .row_offsets = experts.batch_offsets,
                                          .y = out});
    for (int64_t row = 0; begin < end; ++begin) {
      const ExpertRows::Run& run = runs[begin];
      step.kernels.GatherRows(step.stream, out.Rows(row, run.count),
                              absl::MakeConstSpan(experts.in_order).subspan(0, run.count),
                              experts.replies[run.source]);
      experts.replies[run.source] += run.count * shape_.row_bytes;
      row += run.count;
    }
  }
  return step.exchange.Post(tag, experts.message_bytes);
}

// Finds where each (row, slot) result arrived.
absl::Status Moe::ReceiveCombine(StepContext& step, const ExchangeTag& tag) const {
  ExpertScratch& experts = step.experts;
  SHOAL_RETURN_IF_ERROR(
      step.exchange.Wait(tag, step.tag.deadline, absl::MakeSpan(experts.received)));
  for (int r = 0; r < step.exchange.world_size(); ++r) {
    const absl::Span<const int32_t> rows = experts.rows.RowsTo(RankId(r));
    const absl::Span<const ExpertPair> pairs = experts.rows.PairsTo(RankId(r));
    const absl::StatusOr<const std::byte*> message =
        ParseCombine(shape_, pairs.size(), experts.received[r]);
    if (!message.ok()) {
      return BadMessage(tag, step.exchange.rank(), RankId(r), message.status());
    }
    const std::byte* row = *message;
    for (const ExpertPair& pair : pairs) {
      experts.result_rows[rows[pair.row] * shape_.slots + pair.slot] = row;
      row += shape_.row_bytes;
    }
  }
  return absl::OkStatus();
}

}  // namespace shoal
