// SPDX-License-Identifier: Apache-2.0
// A worker made of values, for tests of the coordinator's core. It keeps its own view of its
// sequences from the plans alone, as a real one does, over epochs too, and computes with a model that
// is a hash: the cache row of position p is the hash of tokens 0..p, and the token sampled there
// depends on that hash, the seed and the position. So a wrong token, position, block or seed anywhere
// shows as a wrong row or as other text. A step needs all members of the epoch: it ends when each has
// begun it, or never. Everything a plan must not do is written down in `problems`.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "coordinator/core/core.h"
#include "coordinator/core/events.h"

namespace shoal::testing {

// --- The model ---

inline constexpr int32_t kVocabulary = 24;
inline constexpr int32_t kEndToken = 3;

inline uint64_t MixBits(uint64_t a, uint64_t b) {
  uint64_t x = a * 0x9e3779b97f4a7c15u + b + 0x7f4a7c15u;
  x ^= x >> 31;
  x *= 0xbf58476d1ce4e5b9u;
  return x ^ (x >> 29);
}

// hashes[p] is the cache row of position p.
inline std::vector<uint64_t> CacheRows(const std::vector<int32_t>& tokens) {
  std::vector<uint64_t> rows;
  uint64_t hash = 1;
  for (int32_t token : tokens) rows.push_back(hash = MixBits(hash, static_cast<uint64_t>(token)));
  return rows;
}

// The token that follows a row, at `position`, when `generated` tokens were generated before it.
inline int32_t SampleAfter(uint64_t row, const SamplingParams& sampling, int32_t position,
                           int32_t generated) {
  const uint64_t draw = MixBits(MixBits(row, sampling.seed), static_cast<uint64_t>(position));
  const auto token = static_cast<int32_t>(draw % kVocabulary);
  const bool masked = generated < sampling.min_tokens && !sampling.end_token_ids.empty();
  return masked && token == kEndToken ? kEndToken + 1 : token;
}

inline TokenLogprobs LogprobsAfter(uint64_t row, int32_t token) {
  TokenLogprobs logprobs;
  logprobs.chosen = -static_cast<float>(MixBits(row, static_cast<uint64_t>(token)) % 1000);
  return logprobs;
}

// What a choice must say, computed alone.
struct Reference {
  std::vector<int32_t> tokens;
  std::vector<TokenLogprobs> logprobs;
  std::vector<TokenLogprobs> prompt_logprobs;
  FinishReason finish = FinishReason::kLength;
};

inline Reference ComputeAlone(const Request& request, int32_t choice) {
  Reference reference;
  SamplingParams sampling = request.sampling;
  sampling.seed += static_cast<uint64_t>(choice);
  std::vector<int32_t> tokens = request.prompt;
  if (sampling.prompt_logprobs) {
    const std::vector<uint64_t> rows = CacheRows(tokens);
    for (size_t p = 1; p < tokens.size(); ++p) {
      reference.prompt_logprobs.push_back(LogprobsAfter(rows[p - 1], tokens[p]));
    }
  }
  uint64_t row = CacheRows(tokens).back();
  for (int32_t i = 0; i < request.max_tokens; ++i) {
    const int32_t token = SampleAfter(row, sampling, static_cast<int32_t>(tokens.size()), i);
    if (token == kEndToken && !sampling.end_token_ids.empty()) {
      reference.finish = FinishReason::kStop;
      break;
    }
    if (sampling.top_logprobs >= 0) reference.logprobs.push_back(LogprobsAfter(row, token));
    tokens.push_back(token);
    reference.tokens.push_back(token);
    row = MixBits(row, static_cast<uint64_t>(token));
  }
  return reference;
}

// --- The worker ---

// What a worker notices of the other members of its epoch.
class FakePeers {
 public:
  virtual ~FakePeers() = default;
  using Members = std::vector<std::optional<WorkerId>>;
  // Whether all of them have taken the epoch's assignment, so that one can connect to them.
  virtual bool Connected(Epoch epoch, const Members& members) = 0;
  // The worker gives what it has to give to the step.
  virtual void Contribute(WorkerId worker, Epoch epoch, StepId step) = 0;
  // Whether all of them have done so, in the same epoch.
  virtual bool Complete(Epoch epoch, StepId step, const Members& members) = 0;
  // The last step that all its epoch's members have reported: what may be relied on.
  virtual StepId Committed() = 0;
};

// One process. It outlives its connections: cache, experts and sequences stay while it lives.
class FakeWorker {
 public:
  FakeWorker(int64_t cache_blocks, const CoreConfig& config, std::vector<std::string>* problems)
      : config_(config),
        pool_(static_cast<size_t>(cache_blocks) * config.block_tokens, 0),
        problems_(problems) {}

  // Dials: known by this id from now on, and in no epoch. Returns what the old connection had still
  // to bring.
  std::deque<Event> Connect(WorkerId id);
  void Receive(AssignRank message) { inbox_.emplace_back(std::move(message)); }
  void Receive(LoadExperts message) { inbox_.emplace_back(std::move(message)); }
  void Receive(StepPlan message) { inbox_.emplace_back(std::move(message)); }

  // The next thing that can be done: takes a message, begins or finishes a step, connects. False:
  // nothing, before something else happens.
  bool Work(FakePeers& peers, absl::Time now);
  // The step that it waits in breaks, and leaves garbage in the rows it was to write. All later ones
  // of the epoch are aborted.
  void Break(const absl::Status& status);
  void FinishLoading();

  WorkerId id() const { return id_; }
  Epoch epoch() const { return epoch_; }
  std::optional<RankId> rank() const { return rank_; }
  int64_t blocks() const { return static_cast<int64_t>(pool_.size()) / config_.block_tokens; }
  bool loading() const { return loading_; }
  bool loaded() const { return loaded_; }
  bool in_step() const { return running_.has_value(); }
  bool connecting() const { return connecting_; }
  // Since when it is in its step, or connects.
  absl::Time stuck_since() const { return since_; }
  const FakePeers::Members& members() const { return members_; }
  int rows_of_last_step() const { return rows_of_last_step_; }

  std::deque<Event> outbox;  // to be delivered in this order

 private:
  struct FakeSequence {
    std::vector<int32_t> tokens;  // those known to the worker: also sampled ones not committed yet
    std::vector<uint64_t> cache;  // what their cache rows must be
    int32_t prompt_tokens = 0;
    SamplingParams sampling;
    std::vector<BlockId> table;
    int32_t rows = -1;  // computed so far; -1: no work yet
    bool decoding = false;
    struct Past {
      StepId step;
      int32_t tokens;
      int32_t rows;
    };
    std::vector<Past> past;  // after each step that had rows of it
  };
  struct Rows {
    SequenceId id;
    FakeSequence* sequence;
    int32_t start;
    int32_t count;
    bool sample;
    bool prompt_logprobs;
  };
  struct Running {
    StepPlan plan;
    std::vector<Rows> batch;
  };

  void Problem(const std::string& what);
  void Take(const AssignRank& message, absl::Time now);
  void Take(const LoadExperts& message);
  void Begin(StepPlan plan, FakePeers& peers, absl::Time now);
  void Finish();
  void ReportFailure(const StepPlan& plan, const absl::Status& status);

  // Keeps the sequences that live on, as committed steps left them.
  void RewindAll(const std::vector<Rewind>& rewind, StepId committed);
  // The rows of this step, after the plan's changes.
  std::vector<Rows> Apply(const RankPlan& plan);
  void CheckLimits(const std::vector<Rows>& batch);
  // The rows before the new ones must be in the cache before the step.
  void CheckCache(const Rows& r);
  size_t Slot(const FakeSequence& sequence, int32_t position);
  void Write(const Rows& r, bool broken, std::set<size_t>& written);
  void Report(const Rows& r, StepDone& done);

  const CoreConfig config_;
  WorkerId id_;
  std::deque<std::variant<AssignRank, LoadExperts, StepPlan>> inbox_;
  Epoch epoch_;
  std::optional<RankId> rank_;
  FakePeers::Members members_;
  bool loading_ = false;
  bool loaded_ = false;
  bool asked_to_load_ = false;  // by LoadExperts, not by an epoch
  bool connecting_ = false;
  bool first_plan_ = false;  // of the epoch is still to come
  bool broken_ = false;
  std::optional<Running> running_;
  absl::Time since_;
  int rows_of_last_step_ = 0;
  SequenceId last_id_;
  std::map<SequenceId, FakeSequence> sequences_;
  std::vector<uint64_t> pool_;  // cache rows by slot
  std::vector<std::string>* problems_;
};

}  // namespace shoal::testing
