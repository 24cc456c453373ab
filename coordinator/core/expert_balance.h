// SPDX-License-Identifier: Apache-2.0
// Expert-parallel load balancing: loads -> replicas -> ranks, a pure function of a load matrix. The
// published algorithm (EPLB, https://github.com/deepseek-ai/EPLB) with its ties decided: groups of
// experts are packed onto hosts, hot experts of a host are replicated, replicas are packed onto the
// host's ranks.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace shoal {

// Indices by falling weight, equal weights by rising index.
std::vector<int> HeaviestFirst(absl::Span<const float> weight);

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

}  // namespace shoal
