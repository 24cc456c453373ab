// SPDX-License-Identifier: Apache-2.0
#include "coordinator/link/translate.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "engine/base/status_macros.h"
#include "proto/cluster.pb.h"

namespace shoal {
namespace {

constexpr int kMaxRanks = 4096;  // of a world, as for the workers

void ToProto(const SamplingParams& params, proto::Sampling& message) {
  message.set_temperature(params.temperature);
  message.set_top_p(params.top_p);
  message.set_top_k(params.top_k);
  message.set_min_p(params.min_p);
  message.set_presence_penalty(params.presence_penalty);
  message.set_frequency_penalty(params.frequency_penalty);
  message.set_repetition_penalty(params.repetition_penalty);
  message.set_seed(params.seed);
  message.set_min_tokens(params.min_tokens);
  message.set_top_logprobs(params.top_logprobs);
  message.set_prompt_logprobs(params.prompt_logprobs);
  message.mutable_end_token_ids()->Add(params.end_token_ids.begin(), params.end_token_ids.end());
  for (const auto& [token, bias] : params.logit_bias) {
    message.add_logit_bias_tokens(token);
    message.add_logit_bias_values(bias);
  }
}

absl::StatusOr<TokenLogprobs> FromProto(const proto::TokenLogprobs& message) {
  if (message.top_tokens_size() != message.top_logprobs_size()) {
    return absl::InvalidArgumentError(absl::StrCat("logprobs: ", message.top_tokens_size(),
                                                   " tokens, ", message.top_logprobs_size(),
                                                   " values"));
  }
  TokenLogprobs logprobs;
  logprobs.chosen = message.chosen();
  logprobs.top.reserve(message.top_tokens_size());
  for (int i = 0; i < message.top_tokens_size(); ++i) {
    logprobs.top.emplace_back(message.top_tokens(i), message.top_logprobs(i));
  }
  return logprobs;
}

void ToProto(const ExpertPlacement& placement,
             google::protobuf::RepeatedPtrField<proto::LayerPlacement>& layers) {
  for (int layer = 0; layer < placement.layers(); ++layer) {
    proto::LayerPlacement& out = *layers.Add();
    for (int expert = 0; expert < placement.n_routed_experts(layer); ++expert) {
      const absl::Span<const RankId> holders = placement.Holders(layer, ExpertId(expert));
      out.add_replicas(static_cast<int32_t>(holders.size()));
      for (RankId rank : holders) out.add_ranks(rank.value());
    }
  }
}

absl::StatusOr<std::vector<absl::Duration>> Durations(
    const google::protobuf::RepeatedField<int64_t>& microseconds) {
  std::vector<absl::Duration> durations;
  durations.reserve(microseconds.size());
  for (int64_t value : microseconds) {
    if (value < 0) return absl::InvalidArgumentError("step result: a negative duration");
    durations.push_back(absl::Microseconds(value));
  }
  return durations;
}

// Those beyond any world are left out.
std::vector<RankId> Ranks(const google::protobuf::RepeatedField<int32_t>& ranks) {
  const int count = std::min(ranks.size(), kMaxRanks);
  return std::vector<RankId>(ranks.begin(), ranks.begin() + count);
}

}  // namespace

void ToProto(const StepPlan& plan, proto::StepPlan& message) {
  message.Clear();
  message.set_epoch(plan.epoch.value());
  message.set_step(plan.step.value());
  message.set_timeout_us(absl::ToInt64Microseconds(plan.timeout));
  for (const Rewind& rewind : plan.plan.rewind) {
    proto::Rewind& out = *message.add_rewind();
    out.set_id(rewind.id.value());
    out.set_tokens(rewind.tokens);
    out.set_rows(rewind.rows);
  }
  for (const NewSequence& sequence : plan.plan.new_sequences) {
    proto::NewSequence& out = *message.add_new_sequences();
    out.set_id(sequence.id.value());
    out.mutable_tokens()->Add(sequence.tokens.begin(), sequence.tokens.end());
    out.set_prompt_tokens(sequence.prompt_tokens);
    ToProto(sequence.sampling, *out.mutable_sampling());
  }
  for (const SequenceWork& work : plan.plan.work) {
    proto::SequenceWork& out = *message.add_work();
    out.set_id(work.id.value());
    out.set_start(work.start);
    out.set_count(work.count);
    out.set_sample(work.sample);
    out.set_prompt_logprobs(work.prompt_logprobs);
    for (BlockId block : work.new_blocks) out.add_new_blocks(block.value());
  }
  for (SequenceId id : plan.plan.stop_decode) message.add_stop_decode(id.value());
  for (SequenceId id : plan.plan.forget) message.add_forget(id.value());
}

void ToProto(const AssignRank& command, const std::vector<std::string>& endpoints,
             bool placement_is_known, proto::AssignRank& message) {
  message.Clear();
  message.set_epoch(command.epoch.value());
  message.set_rank(command.rank.value());
  for (const std::string& endpoint : endpoints) message.add_endpoints(endpoint);
  if (command.placement == nullptr || placement_is_known) return;
  ToProto(*command.placement, *message.mutable_placement());
}

void ToProto(const LoadExperts& command, int64_t serial, proto::LoadExperts& message) {
  message.Clear();
  message.set_serial(serial);
  message.set_rank(command.rank.value());
  if (command.placement == nullptr) return;
  message.set_world_size(command.placement->world_size());
  ToProto(*command.placement, *message.mutable_placement());
}

absl::Status FromProto(const proto::Status& message) {
  const bool known =
      message.code() >= 0 && message.code() <= static_cast<int>(absl::StatusCode::kUnauthenticated);
  return absl::Status(
      known ? static_cast<absl::StatusCode>(message.code()) : absl::StatusCode::kUnknown,
      message.message());
}

ConnectFailed FromProto(const proto::ConnectFailed& message, WorkerId worker) {
  ConnectFailed failed;
  failed.worker = worker;
  failed.epoch = Epoch(message.epoch());
  failed.why = FromProto(message.status());
  failed.unreached = Ranks(message.ranks());
  return failed;
}

ExpertTokens FromProto(const proto::ExpertTokens& message, WorkerId worker) {
  ExpertTokens tokens;
  tokens.worker = worker;
  tokens.layers.reserve(message.layers_size());
  for (const proto::LayerTokens& layer : message.layers()) {
    tokens.layers.emplace_back(layer.tokens().begin(), layer.tokens().end());
  }
  return tokens;
}

absl::StatusOr<StepDone> FromProto(const proto::StepDone& message, WorkerId worker) {
  StepDone done;
  done.worker = worker;
  done.epoch = Epoch(message.epoch());
  done.step = StepId(message.step());
  done.status = FromProto(message.status());
  done.blamed = Ranks(message.blamed());
  if (message.busy_us() < 0 || message.waiting_us() < 0) {
    return absl::InvalidArgumentError("step result: a negative duration");
  }
  done.busy = absl::Microseconds(message.busy_us());
  done.waiting = absl::Microseconds(message.waiting_us());
  SHOAL_ASSIGN_OR_RETURN(done.waiting_dispatch, Durations(message.waiting_dispatch_us()));
  SHOAL_ASSIGN_OR_RETURN(done.waiting_combine, Durations(message.waiting_combine_us()));
  done.tokens.reserve(message.tokens_size());
  for (const proto::SampledToken& in : message.tokens()) {
    if (in.position() < 1 || in.token() < 0) {
      return absl::InvalidArgumentError(absl::StrCat("step result: sequence ", in.sequence(),
                                                     ": token ", in.token(), " at position ",
                                                     in.position()));
    }
    SampledToken token;
    token.sequence = SequenceId(in.sequence());
    token.position = in.position();
    token.token = in.token();
    if (in.has_logprobs()) {
      SHOAL_ASSIGN_OR_RETURN(token.logprobs, FromProto(in.logprobs()));
    }
    done.tokens.push_back(std::move(token));
  }
  for (const proto::PromptLogprobs& in : message.prompt_logprobs()) {
    PromptLogprobs prompt;
    prompt.sequence = SequenceId(in.sequence());
    prompt.position = in.position();
    prompt.logprobs.reserve(in.logprobs_size());
    for (const proto::TokenLogprobs& logprobs : in.logprobs()) {
      SHOAL_ASSIGN_OR_RETURN(prompt.logprobs.emplace_back(), FromProto(logprobs));
    }
    done.prompt_logprobs.push_back(std::move(prompt));
  }
  for (const proto::SequenceFailure& in : message.failures()) {
    done.failures.push_back({SequenceId(in.sequence()), in.why()});
  }
  return done;
}

}  // namespace shoal
