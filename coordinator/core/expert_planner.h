// SPDX-License-Identifier: Apache-2.0
// Who holds which expert, a pure function of a load matrix: the published balance
// (`expert_balance.h`), extended so that every expert has at least `holders` copies on different
// ranks, and on different hosts where there are hosts to choose from.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/config/expert_placement.h"

namespace shoal {

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
  ExpertLoad load;                // of PlanUnit may be empty: all are equally hot
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

// What a unit begins with: what PlanPlacement gives, or contiguous shares where nothing but one
// holder is asked for and no load is known. Errors: as PlanPlacement.
absl::StatusOr<ExpertPlacement> PlanUnit(absl::Span<const int> n_routed_experts,
                                         PlacementRequest request);

}  // namespace shoal
