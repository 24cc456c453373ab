// SPDX-License-Identifier: Apache-2.0
// Expert-parallel load balancing: loads -> replicas -> ranks, a pure function of a load matrix.
//
// `BalanceExperts` is the published algorithm (EPLB, https://github.com/deepseek-ai/EPLB) with its
// ties decided: groups of experts are packed onto hosts, hot experts of a host are replicated,
// replicas are packed onto the host's ranks. `PlanPlacement` is what the coordinator uses: that,
// extended so that every expert has at least `holders` copies on different ranks, and on different
// hosts where there are hosts to choose from.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/config/expert_placement.h"

namespace shoal {

struct BalanceShape {
  int physical = 0;  // slots in all; divisible by ranks
  int groups = 1;    // n_group of the router; divides the number of experts
  int nodes = 1;     // hosts; divides ranks
  int ranks = 1;
};

// Loads of one layer [E] -> the logical expert in each physical slot [physical]; slot s belongs to
// rank s / (physical / ranks). Hierarchical if `groups` is divisible by `nodes`, else as with one
// group and one node. Sums in f32. Ties: heaviest first, equal ones by lowest index; the emptiest
// pack with room, lowest index on a tie. Errors: InvalidArgument for shapes that do not divide or
// fewer slots than experts.
absl::StatusOr<std::vector<int>> BalanceExperts(absl::Span<const float> load,
                                                const BalanceShape& shape);

// Tokens per expert by layer, in any unit; no experts in dense layers.
using ExpertLoad = std::vector<std::vector<float>>;

// All experts equally hot. n_routed_experts[layer] is 0 for dense layers.
ExpertLoad EqualLoad(absl::Span<const int> n_routed_experts);

// Whether it has a sensible number for every expert of a model with so many. Errors:
// InvalidArgument naming layer and expert, what was wanted and what was found.
absl::Status CheckExpertLoad(const ExpertLoad& load, absl::Span<const int> n_routed_experts);

// Whether ranks have room for so many copies of each layer's experts, one of each on a rank. Errors:
// InvalidArgument naming layer, what was wanted and what is possible.
absl::Status CheckCopies(absl::Span<const int> n_routed_experts, int ranks, int holders,
                         int redundant_experts);

struct PlacementRequest {
  ExpertLoad load;
  std::vector<int> host_of_rank;  // by rank: an index of the host it runs on
  int holders = 1;                // least copies of each expert, on different ranks
  int redundant_experts = 0;      // further copies per layer, for the hottest
  int n_group = 1;                // of the router
};

// A placement that meets the request; equal requests give equal placements. Each layer begins with
// what BalanceExperts gives, where hosts have equally many ranks and the numbers divide: all of its
// copies with one holder, one copy of each expert with more. Of experts that it puts on a rank
// twice, the second copy is exchanged for another expert's on another rank, at least cost to the
// balance (where groups are packed onto hosts, on the same host); one for which there is none goes
// to the hottest expert. What is wanted beyond, and layers whose numbers do not divide, first-fit
// decreasing places. Ties go to other experts and ranks in each layer. Errors: InvalidArgument
// naming what cannot be met (more copies than ranks).
absl::StatusOr<ExpertPlacement> PlanPlacement(const PlacementRequest& request);

}  // namespace shoal
