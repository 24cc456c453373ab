// SPDX-License-Identifier: Apache-2.0
// Plan -> batch -> model -> sampler -> result. Keeps what the plans' deltas build on: each
// sequence's tokens and block table, and the set of sequences that decode. Feeds each decoding
// sequence the token it sampled last, which the coordinator has not seen yet. At a new epoch it
// goes back to what the coordinator has committed: a step that was interrupted is repeated, and
// what it may have done to a sequence is forgotten.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/base/ids.h"
#include "engine/base/steady_clock.h"
#include "engine/config/sampling_params.h"
#include "engine/model/model.h"
#include "engine/sample/sampler.h"
#include "worker/timed_exchange.h"

namespace shoal {

namespace proto {
class NewSequence;
class Rewind;
class SequenceWork;
class StepDone;
class StepPlan;
}  // namespace proto

struct StepRunnerOptions {
  int64_t max_batch_rows = 512;
  int64_t max_logit_rows = 512;
  int block_tokens = 64;
  int64_t cache_blocks = 0;
  int token_limit = 0;  // ids from here on have no text and are never sampled; 0: vocab_size
  std::function<absl::Time()> now = SteadyNow;
};

// One thread. A plan that contradicts what the runner knows is answered with InvalidArgument, never
// a crash; as after any failed step, nothing was sampled, and the next thing to come must be Reset
// or the first plan of another epoch.
class StepRunner {
 public:
  // `model` and `exchange` (the model's, may be null) outlive the runner.
  StepRunner(const StepRunnerOptions& options, Model& model, TimedExchange* exchange);
  ~StepRunner();

  // Forgets all sequences.
  void Reset();
  // Runs the step and replaces `done` by its result. In steady decode (an empty plan) allocates
  // nothing beyond what `done` needs to grow.
  void Run(const proto::StepPlan& plan, proto::StepDone& done);

  size_t sequences() const { return sequences_.size(); }

 private:
  struct Sequence;
  // A row of logits and what it is for.
  struct LogitUse {
    Sequence* sequence = nullptr;
    int32_t position = 0;    // of the row's own token
    bool sample = false;     // gives the sequence's next token
    bool describes = false;  // its successor is a prompt token whose log-probability is wanted
  };

  absl::Status EnterEpoch(const proto::StepPlan& plan);
  absl::Status Rewind(const proto::Rewind& rewind, int64_t epoch);
  absl::Status ApplyChanges(const proto::StepPlan& plan);
  absl::Status Enter(const proto::NewSequence& entering);
  void Leave(int64_t id);
  absl::Status BuildBatch(const proto::StepPlan& plan);
  absl::Status AddWork(const proto::SequenceWork& work);
  absl::Status AddRows(Sequence& sequence, int32_t start, int32_t count, bool sample,
                       bool prompt_logprobs);
  void Sample(proto::StepDone& done);
  void Commit(const proto::StepDone& done);

  const StepRunnerOptions options_;
  Model& model_;
  TimedExchange* const exchange_;
  const int64_t max_context_;
  const int vocab_size_;
  Sampler sampler_;

  absl::flat_hash_map<int64_t, std::unique_ptr<Sequence>> sequences_;
  std::vector<std::unique_ptr<Sequence>> retired_;  // their memory serves the next ones
  std::vector<Sequence*> decoding_;                 // in the order in which they joined
  Batch batch_;
  std::vector<LogitUse> logit_uses_;  // as batch_.logit_rows
  std::vector<Sequence*> sampling_;   // sequences whose last row samples in this step
  std::unique_ptr<float[]> logits_;   // [max_logit_rows, V]
  TokenLogprobs logprobs_;
  int64_t run_ = 0;  // counts steps: marks sequences that have rows in this one
  std::optional<int64_t> epoch_;  // of the last plan; none: there is nothing to go back to
};

}  // namespace shoal
