// SPDX-License-Identifier: Apache-2.0
// Drives the coordinator's core and writes what it commands as lines of text, so that tests of
// single decisions read like a transcript:
//   assign w1 rank 0 epoch 1
//   plan w1 s1: new 1 [5 6 7] prompt 3; work 1 [0,3) sample blocks 0
//   emit r1.0 @0 [9]
// An empty plan is "plan w1 s2:".
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "coordinator/core/core.h"
#include "coordinator/core/events.h"

namespace shoal::testing {

using Lines = std::vector<std::string>;

inline std::string BlocksText(const std::vector<BlockId>& blocks) {
  return absl::StrJoin(
      blocks, " ", [](std::string* out, BlockId block) { absl::StrAppend(out, block.value()); });
}

inline std::string PlanText(const RankPlan& plan) {
  Lines parts;
  for (const Rewind& rewind : plan.rewind) {
    parts.push_back(absl::StrCat("rewind ", rewind.id.value(), " to ", rewind.tokens, " tokens ",
                                 rewind.rows, " rows"));
  }
  for (const SequenceId id : plan.forget) parts.push_back(absl::StrCat("forget ", id.value()));
  for (const SequenceId id : plan.stop_decode) parts.push_back(absl::StrCat("stop ", id.value()));
  for (const NewSequence& entering : plan.new_sequences) {
    parts.push_back(absl::StrCat("new ", entering.id.value(), " [",
                                 absl::StrJoin(entering.tokens, " "), "] prompt ",
                                 entering.prompt_tokens));
  }
  for (const SequenceWork& work : plan.work) {
    parts.push_back(
        absl::StrCat("work ", work.id.value(), " [", work.start, ",", work.start + work.count, ")",
                     work.sample ? " sample" : "", work.prompt_logprobs ? " prompt_logprobs" : "",
                     work.new_blocks.empty() ? "" : " blocks ", BlocksText(work.new_blocks)));
  }
  return absl::StrJoin(parts, "; ");
}

struct ToText {
  std::string operator()(const AssignRank& c) const {
    std::string text = absl::StrCat("assign w", c.worker.value(), " rank ", c.rank.value(),
                                    " epoch ", c.epoch.value());
    for (size_t r = 0; r < c.members->size(); ++r) {
      if (!(*c.members)[r].has_value()) absl::StrAppend(&text, " without ", r);
    }
    return text;
  }
  std::string operator()(const LoadExperts& c) const {
    return absl::StrCat("load w", c.worker.value(), " rank ", c.rank.value());
  }
  std::string operator()(const SendPlan& c) const {
    const std::string plan = PlanText(c.plan.plan);
    return absl::StrCat("plan w", c.worker.value(), " s", c.plan.step.value(), ":",
                        plan.empty() ? "" : " ", plan);
  }
  std::string operator()(const EvictWorker& c) const {
    return absl::StrCat("evict w", c.worker.value(), ": ", c.why.ToString());
  }
  std::string operator()(const Emit& c) const {
    std::string text = absl::StrCat("emit r", c.request.value(), ".", c.choice, " @", c.first_index,
                                    " [", absl::StrJoin(c.tokens, " "), "]");
    if (c.cached_prompt_tokens > 0) absl::StrAppend(&text, " cached ", c.cached_prompt_tokens);
    switch (c.finish) {
      case FinishReason::kNone:
        break;
      case FinishReason::kStop:
        text += " stop";
        break;
      case FinishReason::kLength:
        text += " length";
        break;
      case FinishReason::kCancelled:
        text += " cancelled";
        break;
      case FinishReason::kError:
        absl::StrAppend(&text, " error ", c.error.ToString());
        break;
    }
    return text;
  }
  std::string operator()(const Reject& c) const {
    return absl::StrCat("reject r", c.request.value(), ": ", c.why.ToString(),
                        c.retry_after > absl::ZeroDuration()
                            ? absl::StrCat(" retry after ", absl::FormatDuration(c.retry_after))
                            : "");
  }
  std::string operator()(const Drained&) const { return "drained"; }
};

// The first line, or the last; empty if nothing was said.
inline std::string First(const Lines& lines) { return lines.empty() ? "" : lines.front(); }
inline std::string Last(const Lines& lines) { return lines.empty() ? "" : lines.back(); }

class Transcript {
 public:
  // One worker, blocks of 4 tokens, 16 rows and 4 sequences a step.
  static CoreConfig Small(int workers = 1) {
    CoreConfig config;
    config.workers = workers;
    config.n_routed_experts = {0, 8};
    config.block_tokens = 4;
    config.max_context = 64;
    config.max_batch_rows = 16;
    config.max_running_sequences = 4;
    config.max_queued_requests = 8;
    return config;
  }

  explicit Transcript(const CoreConfig& config) : config_(config), core_(Core::Create(config)) {}

  // Workers 1, 2, ... join and are ready; what is said meanwhile is dropped.
  void Serve(int64_t cache_blocks = 100) {
    for (int w = 1; w <= config_.workers; ++w) Join(w, cache_blocks);
    for (int w = 1; w <= config_.workers; ++w) Do(WorkerReady{WorkerId(w), Epoch(1)});
  }

  Lines Do(const Event& event) {
    commands.clear();
    core_->Step(event, now, commands);
    Lines lines;
    for (const Command& command : commands) lines.push_back(std::visit(ToText(), command));
    return lines;
  }
  Lines Join(int64_t worker, int64_t cache_blocks = 100, std::optional<int> rank = std::nullopt,
             bool fixed = false) {
    WorkerJoined joined{WorkerId(worker), "host", 100 + worker, cache_blocks, std::nullopt, fixed};
    joined.boot_nonce = 100 + worker;
    if (rank.has_value()) joined.wanted_rank = RankId(*rank);
    return Do(joined);
  }
  Lines Lose(int64_t worker) { return Do(WorkerLost{WorkerId(worker), "killed"}); }
  Lines Loaded(int64_t worker) { return Do(WorkerLoaded{WorkerId(worker)}); }
  Lines Ready(int64_t worker, int64_t epoch) {
    return Do(WorkerReady{WorkerId(worker), Epoch(epoch)});
  }
  // In the present epoch. Tokens as {sequence, position, token}.
  Lines Done(int64_t worker, int64_t step, const std::vector<std::vector<int32_t>>& tokens = {}) {
    return Do(Report(worker, step, tokens, Snapshot().epoch.value()));
  }
  static StepDone Report(int64_t worker, int64_t step,
                         const std::vector<std::vector<int32_t>>& tokens = {}, int64_t epoch = 1) {
    StepDone done;
    done.worker = WorkerId(worker);
    done.epoch = Epoch(epoch);
    done.step = StepId(step);
    for (const std::vector<int32_t>& token : tokens) {
      SampledToken& sampled = done.tokens.emplace_back();
      sampled.sequence = SequenceId(token[0]);
      sampled.position = token[1];
      sampled.token = token[2];
    }
    return done;
  }
  Lines Arrive(const Request& request) { return Do(RequestArrived{request}); }
  Lines TickAfter(absl::Duration time) {
    now += time;
    return Do(Tick{});
  }
  ClusterSnapshot Snapshot() const { return core_->Snapshot(now); }

  absl::Time now = absl::UnixEpoch();
  std::vector<Command> commands;  // of the last event

 private:
  const CoreConfig config_;
  std::unique_ptr<Core> core_;
};

// A request of `prompt` tokens first, first + 1, ...; ends after max_tokens or with token 0.
inline Request MakeRequest(int64_t id, int32_t prompt, int32_t max_tokens, int32_t first = 10) {
  Request request;
  request.id = RequestId(id);
  for (int32_t i = 0; i < prompt; ++i) request.prompt.push_back(first + i);
  request.max_tokens = max_tokens;
  request.sampling.end_token_ids = {0};
  return request;
}

}  // namespace shoal::testing
