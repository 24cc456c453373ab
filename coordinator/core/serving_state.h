// SPDX-License-Identifier: Apache-2.0
// All that the core knows of requests, batches and steps; membership has its own file. Plain state,
// shared by the functions of admission, scheduler, step_planner, step_results and endings.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "coordinator/core/core.h"
#include "coordinator/core/events.h"
#include "coordinator/core/fair_share.h"
#include "coordinator/core/rank_batch.h"
#include "coordinator/core/sequence.h"
#include "coordinator/core/waiting_queue.h"

namespace shoal {

// What one sequence's rows in a step in flight will report.
struct Expected {
  Sequence* sequence = nullptr;       // null: it ended meanwhile, its results are dropped
  SequenceId id;                      // of the stay
  int32_t position = -1;              // of the token to be sampled; -1: none
  bool logprobs = false;              // with its log-probabilities
  int32_t prompt_logprobs_first = 0;  // prompt tokens [first, first + count)
  int32_t prompt_logprobs_count = 0;
};

struct InFlightStep {
  struct Share {
    bool done = false;
    std::vector<Expected> expected;  // ascending id
    // What the rank reported, checked: one per expected one, in the same order.
    std::vector<SampledToken> tokens;
    std::vector<PromptLogprobs> prompt_logprobs;
    std::vector<SequenceFailure> failures;  // as reported
  };
  StepId id;
  absl::Time began;  // when no earlier step was in flight any more
  int32_t shares_done = 0;
  std::vector<Share> shares;  // by rank; those of absent ranks are done
};

struct ServingCounters {
  int64_t prefix_cache_queries = 0;
  int64_t prefix_cache_hits = 0;
  int64_t preemptions = 0;
  int64_t prompt_tokens = 0;
  int64_t generation_tokens = 0;
  int64_t steps = 0;
};

struct ServingState {
  // Steps sent and not committed: the one that runs and the one planned ahead.
  static constexpr size_t kMaxInFlight = 2;

  explicit ServingState(const CoreConfig& core_config) : config(core_config) {}

  const CoreConfig config;
  Epoch epoch;
  bool serving = false;     // all members of the epoch are ready
  bool rewind_due = false;  // the epoch's first plan is still to come
  bool draining = false;
  bool drained = false;  // Drained was given out

  std::map<RequestId, LiveRequest> requests;
  std::set<std::pair<absl::Time, RequestId>> deadlines;  // of requests that have one
  int64_t waiting_requests = 0;                          // not started
  WaitingQueue waiting;
  FairShare users;

  std::vector<Sequence*> set_aside;    // fit into no rank present
  std::vector<Sequence*> backing_off;  // to be tried again when it is time

  std::vector<RankBatch> ranks;  // empty before the first epoch; kept between epochs
  int64_t most_blocks = 0;       // of any rank, absent ones included
  std::map<int32_t, int64_t> running_by_priority;  // sequences in batches
  std::deque<InFlightStep> in_flight;              // oldest first
  std::vector<InFlightStep> spare_steps;           // committed ones, kept for their memory
  StepId last_committed;  // every other one that was planned is in flight or void

  SequenceId last_sequence;
  StepId last_step;
  int64_t last_arrival = 0;
  double finish_interval_s = 0;  // between ends of requests, smoothed; 0: not known yet
  absl::Time last_finish = absl::InfinitePast();
  ServingCounters counters;
  BlockLifetimes block_lifetimes;
};

}  // namespace shoal
