// SPDX-License-Identifier: Apache-2.0
#include "worker/step_runner.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/parallel/blamed_peers.h"
#include "proto/cluster.pb.h"

namespace shoal {
namespace {

constexpr size_t kMaxRetired = 256;

void FromProto(const proto::Sampling& message, SamplingParams& params) {
  params.temperature = message.temperature();
  params.top_p = message.top_p();
  params.top_k = message.top_k();
  params.min_p = message.min_p();
  params.presence_penalty = message.presence_penalty();
  params.frequency_penalty = message.frequency_penalty();
  params.repetition_penalty = message.repetition_penalty();
  params.seed = message.seed();
  params.min_tokens = message.min_tokens();
  params.top_logprobs = message.top_logprobs();
  params.prompt_logprobs = message.prompt_logprobs();
  params.end_token_ids.assign(message.end_token_ids().begin(), message.end_token_ids().end());
  params.logit_bias.clear();
  const int biases = std::min(message.logit_bias_tokens_size(), message.logit_bias_values_size());
  for (int i = 0; i < biases; ++i) {
    params.logit_bias.emplace_back(message.logit_bias_tokens(i), message.logit_bias_values(i));
  }
}

void ToProto(const TokenLogprobs& logprobs, proto::TokenLogprobs& message) {
  message.set_chosen(logprobs.chosen);
  for (const auto& [token, value] : logprobs.top) {
    message.add_top_tokens(token);
    message.add_top_logprobs(value);
  }
}

void ToProto(const absl::Status& status, proto::Status& message) {
  message.set_code(static_cast<int>(status.code()));
  message.set_message(std::string(status.message()));
}

absl::Status BadPlan(int64_t sequence, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("plan: sequence ", sequence, ": ", what));
}

// Logits that are no numbers end their own sequence, once, and no other.
void NoteFailure(const absl::Status& status, int64_t sequence, proto::StepDone& done) {
  if (status.ok()) return;
  const int noted = done.failures_size();
  if (noted > 0 && done.failures(noted - 1).sequence() == sequence) return;
  proto::SequenceFailure& failure = *done.add_failures();
  failure.set_sequence(sequence);
  failure.set_why(std::string(status.message()));
}

}  // namespace

struct StepRunner::Sequence {
  int64_t id = 0;
  std::vector<int32_t> tokens;  // known: prompt, committed and sampled
  int32_t prompt_tokens = 0;
  SamplingParams params;
  std::vector<BlockId> blocks;
  bool decoding = false;
  int64_t run = 0;    // the last run in which it has rows
  int64_t epoch = 0;  // the last epoch in which it lives
};

StepRunner::StepRunner(const StepRunnerOptions& options, Model& model, TimedExchange* exchange)
    : options_(options),
      model_(model),
      exchange_(exchange),
      max_context_(model.config().max_position_embeddings),
      vocab_size_(model.config().vocab_size),
      sampler_(vocab_size_, options.token_limit > 0 ? options.token_limit : vocab_size_),
      // Not initialised: pages that no step needs are never touched.
      logits_(new float[options.max_logit_rows * vocab_size_]) {
  batch_.tokens.reserve(options.max_batch_rows);
  batch_.sequences.reserve(options.max_batch_rows);
  batch_.logit_rows.reserve(options.max_logit_rows);
  logit_uses_.reserve(options.max_logit_rows);
  sampling_.reserve(options.max_batch_rows);
  decoding_.reserve(options.max_batch_rows);
}

StepRunner::~StepRunner() = default;

void StepRunner::Reset() {
  decoding_.clear();
  while (!sequences_.empty()) Leave(sequences_.begin()->first);
  epoch_.reset();
}

void StepRunner::Run(const proto::StepPlan& plan, proto::StepDone& done) {
  const absl::Time begin = options_.now();
  done.Clear();
  done.set_epoch(plan.epoch());
  done.set_step(plan.step());
  if (exchange_ != nullptr) exchange_->ResetWaited();

  absl::Status status = EnterEpoch(plan);
  if (status.ok()) status = ApplyChanges(plan);
  if (status.ok()) status = BuildBatch(plan);
  if (status.ok()) {
    const StepTag tag{Epoch(plan.epoch()), StepId(plan.step()),
                      begin + absl::Microseconds(plan.timeout_us())};
    const TensorView logits(logits_.get(), DType::kF32,
                            {static_cast<int64_t>(batch_.logit_rows.size()), vocab_size_});
    status = model_.Forward(tag, batch_, logits);
  }
  if (status.ok()) {
    Sample(done);
    Commit(done);
  } else {
    ToProto(status, *done.mutable_status());
    for (const RankId rank : BlamedPeers(status)) {
      // A bad message to oneself is nobody else's fault.
      if (exchange_ == nullptr || rank != exchange_->rank()) done.add_blamed(rank.value());
    }
  }
  absl::Duration waiting;
  if (exchange_ != nullptr) {
    waiting = exchange_->waited();
    for (absl::Duration wait : exchange_->waited_for(ExchangePhase::kDispatch)) {
      done.add_waiting_dispatch_us(absl::ToInt64Microseconds(wait));
    }
    for (absl::Duration wait : exchange_->waited_for(ExchangePhase::kCombine)) {
      done.add_waiting_combine_us(absl::ToInt64Microseconds(wait));
    }
  }
  done.set_waiting_us(absl::ToInt64Microseconds(waiting));
  done.set_busy_us(std::max<int64_t>(absl::ToInt64Microseconds(options_.now() - begin - waiting), 0));
}

// With the first plan of an epoch, the sequences that it rewinds live on and every other one is
// forgotten.
absl::Status StepRunner::EnterEpoch(const proto::StepPlan& plan) {
  if (epoch_ == plan.epoch()) {
    if (plan.rewind().empty()) return absl::OkStatus();
    return BadPlan(plan.rewind(0).id(), "is to be rewound in the middle of an epoch");
  }
  for (Sequence* sequence : decoding_) sequence->decoding = false;
  decoding_.clear();
  for (const proto::Rewind& rewind : plan.rewind()) {
    SHOAL_RETURN_IF_ERROR(Rewind(rewind, plan.epoch()));
  }
  std::vector<int64_t> over;
  for (const auto& [id, sequence] : sequences_) {
    if (sequence->epoch != plan.epoch()) over.push_back(id);
  }
  for (int64_t id : over) Leave(id);
  epoch_ = plan.epoch();
  return absl::OkStatus();
}

absl::Status StepRunner::Rewind(const proto::Rewind& rewind, int64_t epoch) {
  const auto found = sequences_.find(rewind.id());
  if (found == sequences_.end()) return BadPlan(rewind.id(), "is to be rewound and is unknown");
  Sequence& sequence = *found->second;
  if (sequence.epoch == epoch) return BadPlan(rewind.id(), "is rewound twice");
  const int64_t known = static_cast<int64_t>(sequence.tokens.size());
  if (rewind.tokens() < sequence.prompt_tokens || rewind.tokens() > known) {
    return BadPlan(rewind.id(), absl::StrCat("is to go back to ", rewind.tokens(), " tokens of ",
                                             known, ", its prompt has ", sequence.prompt_tokens));
  }
  const int64_t blocks =
      (int64_t{rewind.rows()} + options_.block_tokens - 1) / options_.block_tokens;
  if (rewind.rows() < 0 || rewind.rows() > rewind.tokens() ||
      blocks > static_cast<int64_t>(sequence.blocks.size())) {
    return BadPlan(rewind.id(), absl::StrCat("is to go back to ", rewind.rows(), " rows of ",
                                             rewind.tokens(), " tokens in ",
                                             sequence.blocks.size(), " blocks"));
  }
  sequence.tokens.resize(rewind.tokens());
  sequence.blocks.resize(blocks);
  sequence.epoch = epoch;
  return absl::OkStatus();
}

absl::Status StepRunner::ApplyChanges(const proto::StepPlan& plan) {
  for (int64_t id : plan.forget()) Leave(id);
  for (int64_t id : plan.stop_decode()) {
    const auto found = sequences_.find(id);
    if (found == sequences_.end() || !found->second->decoding) continue;
    found->second->decoding = false;
    decoding_.erase(std::find(decoding_.begin(), decoding_.end(), found->second.get()));
  }
  for (const proto::NewSequence& entering : plan.new_sequences()) {
    SHOAL_RETURN_IF_ERROR(Enter(entering));
  }
  return absl::OkStatus();
}

absl::Status StepRunner::Enter(const proto::NewSequence& entering) {
  const int64_t id = entering.id();
  if (sequences_.contains(id)) return BadPlan(id, "is here already");
  if (entering.tokens_size() < 1 || entering.tokens_size() > max_context_) {
    return BadPlan(id, absl::StrCat(entering.tokens_size(), " tokens, want 1..", max_context_));
  }
  if (entering.prompt_tokens() < 1 || entering.prompt_tokens() > entering.tokens_size()) {
    return BadPlan(
        id, absl::StrCat(entering.prompt_tokens(), " prompt tokens of ", entering.tokens_size()));
  }
  for (int32_t token : entering.tokens()) {
    if (token < 0 || token >= vocab_size_) return BadPlan(id, absl::StrCat("token ", token));
  }
  std::unique_ptr<Sequence> sequence;
  if (retired_.empty()) {
    sequence = std::make_unique<Sequence>();
    // For good, so that decoding never grows them. Pages that are not written cost nothing.
    sequence->tokens.reserve(max_context_ + 1);
    sequence->blocks.reserve(max_context_ / options_.block_tokens + 2);
  } else {
    sequence = std::move(retired_.back());
    retired_.pop_back();
  }
  sequence->id = id;
  sequence->tokens.assign(entering.tokens().begin(), entering.tokens().end());
  sequence->prompt_tokens = entering.prompt_tokens();
  FromProto(entering.sampling(), sequence->params);
  sequence->blocks.clear();
  sequence->decoding = false;
  sequence->run = 0;
  sequence->epoch = *epoch_;
  sequences_.emplace(id, std::move(sequence));
  return absl::OkStatus();
}

void StepRunner::Leave(int64_t id) {
  const auto found = sequences_.find(id);
  if (found == sequences_.end()) return;
  if (found->second->decoding) {
    decoding_.erase(std::remove(decoding_.begin(), decoding_.end(), found->second.get()),
                    decoding_.end());
  }
  if (retired_.size() < kMaxRetired) retired_.push_back(std::move(found->second));
  sequences_.erase(found);
}

absl::Status StepRunner::BuildBatch(const proto::StepPlan& plan) {
  ++run_;
  batch_.tokens.clear();
  batch_.sequences.clear();
  batch_.logit_rows.clear();
  logit_uses_.clear();
  sampling_.clear();
  for (const proto::SequenceWork& work : plan.work()) SHOAL_RETURN_IF_ERROR(AddWork(work));
  for (Sequence* sequence : decoding_) {
    if (sequence->run == run_) continue;  // its row came with `work`
    const int32_t last = static_cast<int32_t>(sequence->tokens.size()) - 1;
    SHOAL_RETURN_IF_ERROR(AddRows(*sequence, last, 1, /*sample=*/true, /*prompt_logprobs=*/false));
  }
  return absl::OkStatus();
}

absl::Status StepRunner::AddWork(const proto::SequenceWork& work) {
  const auto found = sequences_.find(work.id());
  if (found == sequences_.end()) return BadPlan(work.id(), "is unknown");
  Sequence& sequence = *found->second;
  if (sequence.run == run_) return BadPlan(work.id(), "has two pieces of work in one step");
  for (int32_t block : work.new_blocks()) {
    if (block < 0 || block >= options_.cache_blocks) {
      return BadPlan(work.id(), absl::StrCat("block ", block, " of ", options_.cache_blocks));
    }
    sequence.blocks.push_back(BlockId(block));
  }
  return AddRows(sequence, work.start(), work.count(), work.sample(), work.prompt_logprobs());
}

absl::Status StepRunner::AddRows(Sequence& sequence, int32_t start, int32_t count, bool sample,
                                 bool prompt_logprobs) {
  const int64_t known = static_cast<int64_t>(sequence.tokens.size());
  const int64_t end = int64_t{start} + count;
  if (start < 0 || count < 1 || end > known || end > max_context_) {
    return BadPlan(sequence.id,
                   absl::StrCat("rows [", start, ", ", end, ") of ", known, " known tokens"));
  }
  if (sample && end != known) return BadPlan(sequence.id, "samples before its last token");
  if (end > static_cast<int64_t>(sequence.blocks.size()) * options_.block_tokens) {
    return BadPlan(sequence.id,
                   absl::StrCat(sequence.blocks.size(), " blocks for ", end, " tokens"));
  }
  const int64_t first_row = static_cast<int64_t>(batch_.tokens.size());
  if (first_row + count > options_.max_batch_rows) {
    return BadPlan(sequence.id,
                   absl::StrCat("more than ", options_.max_batch_rows, " rows in one step"));
  }
  sequence.run = run_;
  batch_.tokens.insert(batch_.tokens.end(), sequence.tokens.begin() + start,
                       sequence.tokens.begin() + end);
  AttendSequence attend;
  attend.first_row = static_cast<int32_t>(first_row);
  attend.row_count = count;
  attend.start_position = start;
  attend.block_table = sequence.blocks;
  batch_.sequences.push_back(attend);
  for (int32_t i = 0; i < count; ++i) {
    LogitUse use;
    use.sequence = &sequence;
    use.position = start + i;
    use.sample = sample && i + 1 == count;
    use.describes = prompt_logprobs && use.position + 1 < sequence.prompt_tokens;
    if (!use.sample && !use.describes) continue;
    if (static_cast<int64_t>(logit_uses_.size()) >= options_.max_logit_rows) {
      return BadPlan(sequence.id,
                     absl::StrCat("more than ", options_.max_logit_rows, " rows of logits"));
    }
    batch_.logit_rows.push_back(static_cast<int32_t>(first_row + i));
    logit_uses_.push_back(use);
  }
  if (sample) sampling_.push_back(&sequence);
  return absl::OkStatus();
}

void StepRunner::Sample(proto::StepDone& done) {
  proto::PromptLogprobs* described = nullptr;  // of the sequence at hand
  for (size_t i = 0; i < logit_uses_.size(); ++i) {
    const LogitUse& use = logit_uses_[i];
    const Sequence& sequence = *use.sequence;
    const absl::Span<const float> logits(logits_.get() + i * vocab_size_, vocab_size_);
    const int top = std::max(sequence.params.top_logprobs, 0);
    if (use.describes) {
      if (described == nullptr || described->sequence() != sequence.id) {
        described = done.add_prompt_logprobs();
        described->set_sequence(sequence.id);
        described->set_position(use.position + 1);
      }
      NoteFailure(sampler_.Logprobs(logits, sequence.tokens[use.position + 1], top, logprobs_),
                  sequence.id, done);
      ToProto(logprobs_, *described->add_logprobs());
    }
    if (!use.sample) continue;
    const absl::StatusOr<int32_t> chosen =
        sampler_.Sample(logits, sequence.params, sequence.tokens, sequence.prompt_tokens);
    NoteFailure(chosen.status(), sequence.id, done);
    const int32_t token = chosen.value_or(0);
    proto::SampledToken& sampled = *done.add_tokens();
    sampled.set_sequence(sequence.id);
    sampled.set_position(static_cast<int32_t>(sequence.tokens.size()));
    sampled.set_token(token);
    if (sequence.params.top_logprobs >= 0) {
      NoteFailure(sampler_.Logprobs(logits, token, top, logprobs_), sequence.id, done);
      ToProto(logprobs_, *sampled.mutable_logprobs());
    }
  }
}

void StepRunner::Commit(const proto::StepDone& done) {
  // In the order in which Sample added them, which is the order of sampling_.
  for (size_t i = 0; i < sampling_.size(); ++i) {
    Sequence& sequence = *sampling_[i];
    sequence.tokens.push_back(done.tokens(static_cast<int>(i)).token());
    if (!sequence.decoding) {
      sequence.decoding = true;
      decoding_.push_back(&sequence);
    }
  }
}

}  // namespace shoal
