// SPDX-License-Identifier: Apache-2.0
#include "coordinator/core/expert_balance.h"

#include <algorithm>
#include <numeric>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace shoal {
namespace {

struct Packing {
  std::vector<int> pack;     // of each item
  std::vector<int> in_pack;  // its place there
};

// Packs equally many items into each pack, heaviest first into the emptiest pack with room. One
// item per pack keeps its place: there is nothing to balance.
Packing PackBalanced(absl::Span<const float> weight, int packs) {
  const int items = static_cast<int>(weight.size());
  const int room = items / packs;
  Packing packing{std::vector<int>(items), std::vector<int>(items, 0)};
  if (room == 1) {
    std::iota(packing.pack.begin(), packing.pack.end(), 0);
    return packing;
  }
  std::vector<float> sum(packs, 0.0f);
  std::vector<int> filled(packs, 0);
  for (int item : HeaviestFirst(weight)) {
    int best = -1;
    for (int p = 0; p < packs; ++p) {
      if (filled[p] < room && (best < 0 || sum[p] < sum[best])) best = p;
    }
    packing.pack[item] = best;
    packing.in_pack[item] = filled[best]++;
    sum[best] += weight[item];
  }
  return packing;
}

struct Replicas {
  std::vector<int> logical;  // of each replica; the first copies come first
  std::vector<int> count;    // of each logical expert
};

// Gives each further replica to the expert whose load per copy is the largest.
Replicas Replicate(absl::Span<const float> weight, int replicas) {
  const int experts = static_cast<int>(weight.size());
  Replicas result{std::vector<int>(experts), std::vector<int>(experts, 1)};
  std::iota(result.logical.begin(), result.logical.end(), 0);
  while (static_cast<int>(result.logical.size()) < replicas) {
    int best = 0;
    for (int e = 1; e < experts; ++e) {
      if (weight[e] / result.count[e] > weight[best] / result.count[best]) best = e;
    }
    result.logical.push_back(best);
    ++result.count[best];
  }
  return result;
}

}  // namespace

std::vector<int> HeaviestFirst(absl::Span<const float> weight) {
  std::vector<int> order(weight.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return weight[a] > weight[b]; });
  return order;
}

absl::StatusOr<std::vector<int>> BalanceExperts(absl::Span<const float> load,
                                                const BalanceShape& shape) {
  const int experts = static_cast<int>(load.size());
  int groups = shape.groups, nodes = shape.nodes;
  if (experts == 0 || shape.ranks < 1 || nodes < 1 || groups < 1 || shape.physical < experts ||
      shape.physical % shape.ranks != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "cannot balance ", experts, " experts over ", shape.physical, " slots on ", shape.ranks,
        " ranks: want at least one slot each and ", "as many on each rank"));
  }
  if (groups % nodes != 0) groups = nodes = 1;
  if (experts % groups != 0 || shape.ranks % nodes != 0 || shape.physical % nodes != 0) {
    return absl::InvalidArgumentError(absl::StrCat(experts, " experts in ", groups, " groups, ",
                                                   shape.ranks, " ranks on ", nodes,
                                                   " nodes: want numbers that divide"));
  }
  // Groups onto nodes. `order` lists experts node by node, in each node by its groups' places.
  const int group_size = experts / groups, groups_per_node = groups / nodes;
  std::vector<float> group_load(groups, 0.0f);
  for (int e = 0; e < experts; ++e) group_load[e / group_size] += load[e];
  const Packing group_packing = PackBalanced(group_load, nodes);
  std::vector<int> order(experts);
  for (int e = 0; e < experts; ++e) {
    const int group = e / group_size;
    const int place = group_packing.pack[group] * groups_per_node + group_packing.in_pack[group];
    order[place * group_size + e % group_size] = e;
  }
  // Within each node: replicas, then ranks.
  const int node_experts = experts / nodes, node_slots = shape.physical / nodes,
            node_ranks = shape.ranks / nodes;
  const int rank_slots = shape.physical / shape.ranks;
  std::vector<int> slots(shape.physical);
  for (int node = 0; node < nodes; ++node) {
    std::vector<float> node_load(node_experts);
    for (int i = 0; i < node_experts; ++i) node_load[i] = load[order[node * node_experts + i]];
    const Replicas replicas = Replicate(node_load, node_slots);
    std::vector<float> replica_load(node_slots);
    for (int r = 0; r < node_slots; ++r) {
      replica_load[r] = node_load[replicas.logical[r]] / replicas.count[replicas.logical[r]];
    }
    const Packing packing = PackBalanced(replica_load, node_ranks);
    for (int r = 0; r < node_slots; ++r) {
      const int slot = node * node_slots + packing.pack[r] * rank_slots + packing.in_pack[r];
      slots[slot] = order[node * node_experts + replicas.logical[r]];
    }
  }
  return slots;
}

}  // namespace shoal
