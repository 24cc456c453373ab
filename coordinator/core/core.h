// SPDX-License-Identifier: Apache-2.0
// The coordinator's mind: one pure state machine. Production feeds it from gRPC and HTTP, tests from values, a simulator
// from a seed; it is the same code each time. No sockets, threads, clock or randomness inside.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "coordinator/core/block_lifetimes.h"
#include "coordinator/core/events.h"
#include "engine/config/expert_placement.h"

namespace shoal {

struct CoreConfig {
  int workers = 1;                       // ranks of the expert-parallel unit; serving starts when all are ready
  std::vector<int> n_routed_experts;     // by layer, 0 for dense ones
  std::shared_ptr<const ExpertPlacement> placement;  // null: contiguous
  int block_tokens = 64;
  int64_t max_context = 2048;            // max_position_embeddings
  int32_t max_batch_rows = 512;          // per rank and step
  int32_t max_running_sequences = 64;    // per rank: also the largest number of sampled rows of a step
  int32_t max_queued_requests = 1024;    // beyond: Reject with ResourceExhausted
  bool prefix_cache = true;
  absl::Duration step_timeout = absl::Seconds(30);
  absl::Duration heartbeat_timeout = absl::Milliseconds(300);
  absl::Duration loading_timeout = absl::Minutes(30);  // from AssignRank to WorkerReady
  // A lost worker or a failed step ends running requests with an error. With this they are computed
  // again from prompt and committed tokens instead, as after a preemption; no client notices.
  bool replay_on_failure = false;
};
// InvalidArgument naming the first value that makes no sense, and what was wanted.
absl::Status Validate(const CoreConfig& config);

// What an operator sees: `GET /cluster`, `shoal status`, `/metrics`.
struct WorkerSnapshot {
  WorkerId worker;
  RankId rank;
  int64_t pid = 0;
  std::string host;
  std::string state;  // "loading", "serving", "draining", "gone"
  int experts = 0;    // physical experts held, over all layers
  int64_t blocks_used = 0;
  int64_t blocks_total = 0;
  int running_sequences = 0;
  double tokens_per_s = 0;
};
struct ClusterSnapshot {
  Epoch epoch;
  std::vector<WorkerSnapshot> workers;  // by rank
  int64_t requests_running = 0;
  int64_t requests_waiting = 0;
  int64_t prefix_cache_queries = 0;  // tokens looked up
  int64_t prefix_cache_hits = 0;     // tokens found
  int64_t preemptions = 0;
  int64_t prompt_tokens = 0;
  int64_t generation_tokens = 0;
  int64_t steps = 0;
  BlockLifetimes block_lifetimes;  // of all ranks since the start
  bool serving = false;  // all ranks ready
};

class Core {
 public:
  virtual ~Core() = default;
  // Requires Validate(config).ok().
  static std::unique_ptr<Core> Create(const CoreConfig& config);

  // Folds one event into the cluster's state and appends what must be done about it.
  // Deterministic: equal state and equal (event, now) give equal commands. Never blocks, never fails: a bad event
  // becomes a Reject, an Emit with an error, an EvictWorker, or nothing.
  virtual void Step(const Event& event, absl::Time now, std::vector<Command>& commands) = 0;

  virtual ClusterSnapshot Snapshot(absl::Time now) const = 0;
};

}  // namespace shoal
