// SPDX-License-Identifier: Apache-2.0
// The coordinator's mind: one pure state machine. Production feeds it from gRPC and HTTP, tests from values, a simulator
// from a seed; it is the same code each time. No sockets, threads, clock or randomness inside.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "coordinator/core/cluster_snapshot.h"
#include "coordinator/core/events.h"
#include "engine/config/expert_placement.h"

namespace shoal {

struct CoreConfig {
  int workers = 1;                       // ranks of the expert-parallel unit; serving starts when all are ready
  std::vector<int> n_routed_experts;     // by layer, 0 for dense ones
  int n_group = 1;                       // of the router: experts of a group are kept on one host where they can be
  // Who holds which expert when no rank is absent. Null: planned when the workers of the first epoch are known, so that
  // every expert has `holders` on different ranks (on different hosts where there are any to choose from), and
  // `redundant_experts` further copies per layer. With the defaults contiguous.
  std::shared_ptr<const ExpertPlacement> placement;
  int holders = 1;
  int redundant_experts = 0;
  // How hot each expert is, by layer as n_routed_experts, in any unit; empty: all are equally hot. With it even single
  // holders are planned.
  std::vector<std::vector<float>> expert_load;
  int block_tokens = 64;
  int64_t max_context = 2048;            // max_position_embeddings
  int32_t max_batch_rows = 512;          // per rank and step
  int32_t max_running_sequences = 64;    // per rank: also the largest number of sampled rows of a step
  int32_t max_queued_requests = 1024;    // beyond: Reject with ResourceExhausted
  bool prefix_cache = true;
  // Also from AssignRank to WorkerReady, with weights loaded, if it is not less than workers take
  // to say that they cannot connect.
  absl::Duration step_timeout = absl::Seconds(30);
  absl::Duration heartbeat_timeout = absl::Milliseconds(300);
  absl::Duration loading_timeout = absl::Minutes(30);  // to WorkerLoaded, or the first WorkerReady
};
// InvalidArgument naming the first value that makes no sense, and what was wanted.
absl::Status Validate(const CoreConfig& config);

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
