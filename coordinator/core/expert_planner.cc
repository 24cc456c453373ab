// SPDX-License-Identifier: Apache-2.0
#include "coordinator/core/expert_planner.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"

namespace shoal {
namespace {

// Indices by falling weight, equal weights by rising index.
std::vector<int> HeaviestFirst(absl::Span<const float> weight) {
  std::vector<int> order(weight.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return weight[a] > weight[b]; });
  return order;
}

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

namespace {

// Copies of each expert: `holders`, then the redundant ones to the largest load per copy, at most
// one per rank.
std::vector<int> CountCopies(absl::Span<const float> load, int holders, int redundant, int ranks) {
  std::vector<int> copies(load.size(), holders);
  for (; redundant > 0; --redundant) {
    int best = -1;
    for (int e = 0; e < static_cast<int>(load.size()); ++e) {
      if (copies[e] == ranks) continue;
      if (best < 0 || load[e] / copies[e] > load[best] / copies[best]) best = e;
    }
    if (best < 0) break;  // every expert is everywhere
    ++copies[best];
  }
  return copies;
}

// Ranks of each expert of one layer. Experts go heaviest copy first; each copy to the rank that (1)
// lacks the expert, (2) is on a host with the fewest copies of it, (3) has room, (4) is the
// emptiest in load, then in experts, (5) is the lowest. Room is even: no rank holds more than
// ceil(copies / ranks). Where (2) points at full ranks only, one of their experts moves to a rank
// with room, if that leaves it on as many hosts.
class LayerPlanner {
 public:
  LayerPlanner(absl::Span<const float> load, absl::Span<const int> copies,
               absl::Span<const int> host_of_rank)
      : experts_(static_cast<int>(load.size())),
        ranks_(static_cast<int>(host_of_rank.size())),
        hosts_(*std::max_element(host_of_rank.begin(), host_of_rank.end()) + 1),
        copies_(copies),
        host_of_rank_(host_of_rank),
        per_copy_(load.size()),
        holds_(load.size() * host_of_rank.size(), false),
        on_host_(load.size() * hosts_, 0),
        on_rank_(host_of_rank.size(), 0),
        sum_(host_of_rank.size(), 0.0f) {
    for (int e = 0; e < experts_; ++e) per_copy_[e] = load[e] / copies[e];
    const int total = std::accumulate(copies.begin(), copies.end(), 0);
    room_ = (total + ranks_ - 1) / ranks_;
  }

  std::vector<std::vector<RankId>> Plan() {
    for (int expert : HeaviestFirst(per_copy_)) {
      for (int copy = 0; copy < copies_[expert]; ++copy) Place(expert);
    }
    std::vector<std::vector<RankId>> holders(experts_);
    for (int e = 0; e < experts_; ++e) {
      for (int rank = 0; rank < ranks_; ++rank) {
        if (Holds(rank, e)) holders[e].push_back(RankId(rank));
      }
    }
    return holders;
  }

 private:
  bool Holds(int rank, int expert) const { return holds_[size_t(expert) * ranks_ + rank]; }
  int CopiesOnHost(int expert, int host) const { return on_host_[size_t(expert) * hosts_ + host]; }
  bool HasRoom(int rank) const { return on_rank_[rank] < room_; }

  void Put(int expert, int rank) {
    holds_[size_t(expert) * ranks_ + rank] = true;
    ++on_host_[size_t(expert) * hosts_ + host_of_rank_[rank]];
    ++on_rank_[rank];
    sum_[rank] += per_copy_[expert];
  }
  void Take(int expert, int rank) {
    holds_[size_t(expert) * ranks_ + rank] = false;
    --on_host_[size_t(expert) * hosts_ + host_of_rank_[rank]];
    --on_rank_[rank];
    sum_[rank] -= per_copy_[expert];
  }

  // What one more copy of an expert on `rank` costs: smaller is better, in this order.
  struct Cost {
    int copies_on_host;
    bool full;
    float load;
    int experts;
    int rank;
    auto operator<=>(const Cost&) const = default;
  };

  // The cheapest rank that lacks the expert. There is one: an expert has at most as many copies as
  // there are ranks.
  Cost Cheapest(int expert) const {
    std::optional<Cost> best;
    for (int rank = 0; rank < ranks_; ++rank) {
      if (Holds(rank, expert)) continue;
      const Cost cost{CopiesOnHost(expert, host_of_rank_[rank]), !HasRoom(rank), sum_[rank],
                      on_rank_[rank], rank};
      if (!best.has_value() || cost < *best) best = cost;
    }
    SHOAL_CHECK(best.has_value());
    return *best;
  }

  // Moves one expert away from the full `rank` to one with room, where it is no worse off. None
  // goes if none can.
  void MakeRoom(int rank) {
    const int host = host_of_rank_[rank];
    for (int target = 0; target < ranks_; ++target) {
      if (!HasRoom(target)) continue;
      const int target_host = host_of_rank_[target];
      for (int other = 0; other < experts_; ++other) {
        if (!Holds(rank, other) || Holds(target, other)) continue;
        if (target_host != host && CopiesOnHost(other, target_host) >= CopiesOnHost(other, host))
          continue;
        Take(other, rank);
        Put(other, target);
        return;
      }
    }
  }

  void Place(int expert) {
    const Cost cost = Cheapest(expert);
    // If nothing can move, holders on different hosts matter more than one expert beyond the even
    // share.
    if (cost.full) MakeRoom(cost.rank);
    Put(expert, cost.rank);
  }

  const int experts_;
  const int ranks_;
  const int hosts_;
  absl::Span<const int> copies_;
  absl::Span<const int> host_of_rank_;
  int room_ = 0;
  std::vector<float> per_copy_;  // load
  std::vector<bool> holds_;      // [expert, rank]
  std::vector<int> on_host_;     // [expert, host]: copies
  std::vector<int> on_rank_;     // experts
  std::vector<float> sum_;       // by rank: load
};

}  // namespace

absl::StatusOr<ExpertPlacement> PlanPlacement(const PlacementRequest& request) {
  const int ranks = static_cast<int>(request.host_of_rank.size());
  if (request.holders < 1 || request.holders > ranks || request.redundant_experts < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot place ", request.holders, " holders of every expert (and ",
                     request.redundant_experts, " redundant ones) on ", ranks, " ranks"));
  }
  std::vector<std::vector<std::vector<RankId>>> holders;
  holders.reserve(request.load.size());
  for (const std::vector<float>& load : request.load) {
    const std::vector<int> copies =
        CountCopies(load, request.holders, request.redundant_experts, ranks);
    holders.push_back(LayerPlanner(load, copies, request.host_of_rank).Plan());
  }
  return ExpertPlacement::Create(ranks, std::move(holders));
}

}  // namespace shoal
