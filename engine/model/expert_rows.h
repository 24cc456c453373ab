// SPDX-License-Identifier: Apache-2.0
// Bookkeeping of expert parallelism for one layer at a time, on the host, in memory sized at start:
// which rows go to which rank, and which received rows go to which expert. Pure index arithmetic;
// moves no data.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "engine/base/ids.h"
#include "engine/config/expert_targets.h"
#include "engine/parallel/expert_messages.h"

namespace shoal {

class ExpertRows {
 public:
  ExpertRows() = default;
  ExpertRows(int world_size, int64_t max_rows, int max_experts, int max_slots);

  // --- What this rank sends
  // -----------------------------------------------------------------------------

  // Groups the chosen experts [rows, slots] of this rank's rows by the rank that computes them.
  void PlanDispatch(const ExpertTargets& targets, int layer, absl::Span<const int32_t> experts,
                    int slots);
  // Rows of this rank that go to `peer`, ascending, each once.
  absl::Span<const int32_t> RowsTo(RankId peer) const { return outgoing_[peer.value()].rows; }
  // Their experts: pairs ascending by (expert, row), rows counted within RowsTo(peer).
  absl::Span<const ExpertPair> PairsTo(RankId peer) const { return outgoing_[peer.value()].pairs; }

  // --- What this rank received
  // --------------------------------------------------------------------------

  // A run of rows of one source that one expert computes.
  struct Run {
    int32_t expert = 0;
    int32_t source = 0;
    int32_t first_pair = 0;   // within the source's message
    int32_t first_index = 0;  // of its rows in Indices()
    int32_t count = 0;
  };
  // Orders all pairs of the sources' messages by (expert, source, row).
  void PlanCompute(absl::Span<const DispatchMessage> messages);
  absl::Span<const Run> Runs() const { return runs_; }
  // Rows of the source's message, in the order of the run.
  absl::Span<const int32_t> Indices(const Run& run) const {
    return absl::MakeConstSpan(indices_).subspan(run.first_index, run.count);
  }

 private:
  struct Outgoing {
    std::vector<int32_t> rows;
    std::vector<ExpertPair> pairs;
  };
  std::vector<Outgoing> outgoing_;  // by rank
  std::vector<Run> runs_;
  std::vector<int32_t> indices_;
  std::vector<int32_t> cursors_;  // by source: first pair not in a run yet
};

}  // namespace shoal
