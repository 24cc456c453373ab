// SPDX-License-Identifier: Apache-2.0
// Which rank holds which expert: the map logical expert -> physical replicas, the same for every
// party in one epoch.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "engine/base/ids.h"

namespace shoal {

// Holders of every routed expert of every MoE layer. Layers are the model's decoder layers, dense
// ones with an empty list; expert ids are logical, 0-based.
class ExpertPlacement {
 public:
  // holders[layer][expert] = ranks that hold a copy, ascending, at least one. Errors:
  // InvalidArgument naming layer and expert when a list is empty, unsorted, repeated or names a
  // rank outside [0, world_size).
  static absl::StatusOr<ExpertPlacement> Create(
      int world_size, std::vector<std::vector<std::vector<RankId>>> holders);

  // Contiguous: rank r holds experts [r*E/N, (r+1)*E/N) of each MoE layer. n_routed_experts[layer]
  // is 0 for dense layers. Any 1 <= world_size <= E.
  static absl::StatusOr<ExpertPlacement> Contiguous(int world_size,
                                                    absl::Span<const int> n_routed_experts);

  // How many of a layer's `experts` rank `rank` of `world_size` then holds.
  static int64_t ContiguousShare(int64_t experts, int64_t world_size, int64_t rank) {
    return (rank + 1) * experts / world_size - rank * experts / world_size;
  }

  // What is left when these ranks are gone: every other holder, in the same order. Which experts a
  // remaining rank holds does not change. Errors: FailedPrecondition naming layer, expert and ranks
  // if an expert has no holder left.
  absl::StatusOr<ExpertPlacement> Without(absl::Span<const RankId> absent) const;
  // The error that Without would give.
  absl::Status CheckWithout(absl::Span<const RankId> absent) const;

  // Whether it describes a model with these experts (0: a dense layer) on so many ranks. Errors:
  // InvalidArgument naming what differs.
  absl::Status CheckFits(int world_size, absl::Span<const int> n_routed_experts) const;

  int world_size() const { return world_size_; }
  int layers() const { return static_cast<int>(holders_.size()); }
  absl::Span<const RankId> Holders(int layer, ExpertId expert) const {
    return holders_[layer][expert.value()];
  }
  // Experts of `layer` held by `rank`, ascending: the rank's local expert order.
  std::vector<ExpertId> HeldBy(int layer, RankId rank) const;
  // Number of experts of a layer (0: dense).
  int n_routed_experts(int layer) const { return static_cast<int>(holders_[layer].size()); }

  // JSON: {"world_size": N, "layers": [[[ranks of expert 0], [ranks of expert 1], ...], ...]} .
  static absl::StatusOr<ExpertPlacement> FromJson(absl::string_view json);
  std::string ToJson() const;

  bool operator==(const ExpertPlacement&) const = default;

 private:
  std::vector<bool> Marked(absl::Span<const RankId> ranks) const;  // by rank

  int world_size_ = 0;
  std::vector<std::vector<std::vector<RankId>>> holders_;
};

}  // namespace shoal
