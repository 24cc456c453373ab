// SPDX-License-Identifier: Apache-2.0
// What an operator sees of the cluster: `GET /cluster`, `shoal status`, `/metrics`. Plain values, taken
// from the core's state at one moment.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "coordinator/core/block_lifetimes.h"
#include "coordinator/core/events.h"
#include "engine/base/ids.h"

namespace shoal {

// What the death of a worker would cost right now. No request fails by it.
struct DeathCost {
  int64_t sequences = 0;     // that would be replayed on others
  int64_t tokens = 0;        // of these sequences: at most so many would be computed again; what prefix
                             // caches of others have is not
  int experts_left_with_one = 0;  // experts, over all layers, that would have one live holder
  int experts_lost = 0;           // that would have none: requests would pause until a worker has loaded
  bool pauses = false;            // experts_lost > 0, or no worker would be left
};

struct WorkerSnapshot {
  WorkerId worker;
  RankId rank;
  int64_t pid = 0;
  std::string host;
  // "loading" its experts; "joining": waits for its epoch to begin; "serving"; "draining"; "left
  // out": others cannot reach it, or it them; "gone".
  std::string state;
  int experts = 0;  // physical experts held, over all layers
  int64_t blocks_used = 0;
  int64_t blocks_total = 0;
  int running_sequences = 0;
  double tokens_per_s = 0;
  DeathCost death;  // of a serving worker
};

// One change of the epoch after the first, and how long it took. Times of the core's clock;
// InfiniteFuture: not yet. When one comes before the one before it is over, both end together.
struct Recovery {
  enum class Cause : uint8_t {
    kLoss,    // a member was lost
    kStep,    // a step failed, and no member is to blame
    kEntry,   // a worker has loaded and enters
    kConnect,  // members could not connect to each other
  };
  Epoch epoch;  // that it led to
  Cause cause = Cause::kLoss;
  std::string who;  // was lost, reported the failure, enters, or is left out
  std::string why;
  absl::Time heard;      // last sign of life of who was lost; else as `suspected`
  absl::Time suspected;  // silent at a Tick, connection closed, failure reported, loaded
  absl::Time decided;    // the number was raised
  absl::Time fenced = absl::InfiniteFuture();   // all members were ready: nothing old can be heard
  absl::Time resumed = absl::InfiniteFuture();  // the first step was committed; or, if nothing runs,
                                                // could have begun
  std::string paused;    // which expert had no live holder then; empty: all had one
  int64_t rewound = 0;   // sequences that went on where they were
  int64_t replayed = 0;  // sequences that went to the queue, to be computed again
};

// "loss", "step", "entry", "connect".
inline const char* CauseName(Recovery::Cause cause) {
  switch (cause) {
    case Recovery::Cause::kLoss:
      return "loss";
    case Recovery::Cause::kStep:
      return "step";
    case Recovery::Cause::kEntry:
      return "entry";
    case Recovery::Cause::kConnect:
      return "connect";
  }
  return "?";
}

// Who waits for whom in exchanges. Smoothed over about the last 16 steps that a rank reported.
struct WaitingSnapshot {
  // Seconds per step that the rank `destination` waited for `source`, at [source * ranks +
  // destination]. Empty until somebody has reported it, and for units of more than 64 ranks.
  std::vector<float> dispatch;
  std::vector<float> combine;
  // By source: seconds per step that the other members wait for it, dispatch and combine, on average.
  std::vector<float> waited_for;
  // The slowest rank: the others wait for it at least twice as long as for the median of the other
  // ranks, and at least a tenth of a step.
  std::optional<RankId> straggler;
};

inline constexpr absl::Duration kBriefConnect = absl::Seconds(1);

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
  bool formed = false;  // all ranks were ready once: from then on requests are taken
  // Steps are computed; or will be as soon as the members of a new epoch are connected, and none has
  // tried that in vain for longer than kBriefConnect. False before the unit is formed, while it is paused, and
  // when connecting takes longer: requests wait then.
  bool serving = false;
  std::string paused;     // which expert has no live holder; empty: all have one
  int least_holders = 0;  // live holders of the expert that has the fewest
  int most_holders = 0;
  int least_hosts = 0;  // hosts of the live holders of the expert that has them on the fewest
  std::vector<Recovery> recoveries;  // the last eight, oldest first
  WaitingSnapshot waiting;
  std::vector<std::vector<int64_t>> expert_tokens;  // [layer][expert]: rows routed since the start
};

}  // namespace shoal
