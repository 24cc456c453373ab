// SPDX-License-Identifier: Apache-2.0
// A worker made of values, for tests of the coordinator's core. It keeps its own view of its
// sequences from the plans alone, as a real one does, and computes with a model that is a hash: the
// cache row of position p is the hash of tokens 0..p, and the token sampled there depends on that
// hash, the seed and the position. So a wrong token, position, block or seed anywhere shows as a
// wrong row or as other text. Everything a plan must not do is written down in `problems`.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <set>
#include <string>
#include <utility>
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

class FakeWorker {
 public:
  FakeWorker(WorkerId id, int64_t cache_blocks, const CoreConfig& config,
             std::vector<std::string>* problems)
      : id_(id),
        config_(config),
        pool_(static_cast<size_t>(cache_blocks) * config.block_tokens, 0),
        problems_(problems) {}

  void Assign(const AssignRank& command);
  void Receive(const StepPlan& plan);

  bool HasPlan() const { return !plans_.empty(); }
  WorkerId id() const { return id_; }

  // Runs the oldest plan. Not OK `fault`: the step breaks in the middle and leaves garbage in the
  // rows it was to write; all others of the epoch are aborted. Returns the number of rows.
  int Execute(const absl::Status& fault);

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
  };
  struct Rows {
    SequenceId id;
    FakeSequence* sequence;
    int32_t start;
    int32_t count;
    bool sample;
    bool prompt_logprobs;
  };

  void Problem(const std::string& what);

  // The rows of this step, after the plan's changes.
  std::vector<Rows> Apply(const RankPlan& plan);
  int CheckLimits(const std::vector<Rows>& batch);

  // The rows before the new ones must be in the cache before the step.
  void CheckCache(const Rows& r);
  size_t Slot(const FakeSequence& sequence, int32_t position);
  void Write(const Rows& r, bool broken, std::set<size_t>& written);
  void Report(const Rows& r, StepDone& done);

  const WorkerId id_;
  const CoreConfig config_;
  Epoch epoch_;
  RankId rank_;
  SequenceId last_id_;
  bool broken_ = false;
  std::map<SequenceId, FakeSequence> sequences_;
  std::deque<StepPlan> plans_;
  std::vector<uint64_t> pool_;  // cache rows by slot; outlives epochs
  std::vector<std::string>* problems_;
};

}  // namespace shoal::testing
