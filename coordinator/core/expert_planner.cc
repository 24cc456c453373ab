// SPDX-License-Identifier: Apache-2.0
#include "coordinator/core/expert_planner.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/core/expert_balance.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"

namespace shoal {
namespace {

// Ranks of each expert, once each.
using Holders = std::vector<std::vector<RankId>>;

// Hosts that all have equally many ranks.
struct EvenHosts {
  std::vector<int> ranks;  // host by host; empty if hosts are uneven
  int hosts = 0;
};

EvenHosts SortByHost(absl::Span<const int> host_of_rank) {
  EvenHosts even{std::vector<int>(host_of_rank.size())};
  std::iota(even.ranks.begin(), even.ranks.end(), 0);
  std::stable_sort(even.ranks.begin(), even.ranks.end(),
                   [&](int a, int b) { return host_of_rank[a] < host_of_rank[b]; });
  std::map<int, int> ranks_of_host;
  for (int host : host_of_rank) ++ranks_of_host[host];
  even.hosts = static_cast<int>(ranks_of_host.size());
  for (const auto& [host, ranks] : ranks_of_host) {
    if (ranks * even.hosts != static_cast<int>(host_of_rank.size())) even.ranks.clear();
  }
  return even;
}

// Where `slots`, as of BalanceExperts, put an expert on a rank twice: exchanges the second copy for
// another expert's on another rank of the node, so that neither holds an expert twice. Of all such
// exchanges the one that leaves the fuller of the two ranks with the least load; on a tie that with
// the first slot. A second copy for which there is none stays.
void ExchangeSecondCopies(absl::Span<const float> load, int rank_slots, int node_slots,
                          std::vector<int>& slots) {
  const int physical = static_cast<int>(slots.size());
  std::vector<int> copies(load.size(), 0);
  for (const int expert : slots) ++copies[expert];
  const auto weight = [&](int slot) { return load[slots[slot]] / copies[slots[slot]]; };
  std::vector<float> sum(physical / rank_slots, 0.0f);
  for (int slot = 0; slot < physical; ++slot) sum[slot / rank_slots] += weight(slot);
  // Whether the expert of `slot` is in one of the slots from `first` up to `end`.
  const auto holds = [&](int first, int end, int slot) {
    const auto begin = slots.begin();
    return std::find(begin + first, begin + end, slots[slot]) != begin + end;
  };
  for (int second = 0; second < physical; ++second) {
    const int rank = second / rank_slots, rank_first = rank * rank_slots;
    if (!holds(rank_first, second, second)) continue;
    const int node_first = second / node_slots * node_slots;
    int best = -1;
    float best_change = 0.0f, least = 0.0f;
    for (int slot = node_first; slot < node_first + node_slots; ++slot) {
      const int other = slot / rank_slots, other_first = other * rank_slots;
      if (holds(other_first, other_first + rank_slots, second) ||
          holds(rank_first, rank_first + rank_slots, slot)) {
        continue;
      }
      const float change = weight(slot) - weight(second);
      const float fuller = std::max(sum[rank] + change, sum[other] - change);
      if (best >= 0 && fuller >= least) continue;
      best = slot;
      best_change = change;
      least = fuller;
    }
    if (best < 0) continue;
    sum[rank] += best_change;
    sum[best / rank_slots] -= best_change;
    std::swap(slots[second], slots[best]);
  }
}

// What the published algorithm places of a layer; no expert is anywhere if its shape does not
// divide. Second copies on a rank are exchanged; of those that could not be, the rank holds one.
struct Base {
  Holders holders;
  bool grouped = false;  // several hosts, and each group of experts is on one of them
};

Base PlanBase(absl::Span<const float> load, int layer, int physical, int n_group,
              const EvenHosts& even) {
  const int experts = static_cast<int>(load.size()), ranks = static_cast<int>(even.ranks.size());
  Base base{Holders(experts)};
  int groups = n_group, nodes = even.hosts;
  if (ranks == 0 || experts % groups != 0 || physical % ranks != 0) return base;
  if (groups % nodes != 0) groups = nodes = 1;
  auto slots = BalanceExperts(load, {physical, groups, nodes, ranks});
  if (!slots.ok()) return base;
  const int rank_slots = physical / ranks;
  ExchangeSecondCopies(load, rank_slots, physical / nodes, *slots);
  base.grouped = nodes > 1;
  // Where all loads are equal its ties would give the same experts a second copy in every layer,
  // and the same ranks the heavier share: experts, groups, ranks and hosts change parts by layer.
  const int64_t turn = std::count(load.begin(), load.end(), load[0]) == experts ? layer : 0;
  const int group_size = experts / groups, node_ranks = ranks / nodes;
  const int replicated = std::max(1, (physical - experts) / nodes);
  for (int slot = 0; slot < physical; ++slot) {
    const int part = (*slots)[slot], place = slot / rank_slots;
    const int64_t group = (part / group_size + turn) % groups;
    const int64_t expert =
        group * group_size + (part % group_size + turn * replicated) % group_size;
    const int64_t node = (place / node_ranks + turn) % nodes;
    const RankId rank(even.ranks[node * node_ranks + (place % node_ranks + turn) % node_ranks]);
    std::vector<RankId>& holders = base.holders[expert];
    if (std::find(holders.begin(), holders.end(), rank) == holders.end()) holders.push_back(rank);
  }
  return base;
}

// The allowed expert of the largest load per copy; of equal ones that of the fewest copies, then
// the first one from `first` on, round. -1 if none is allowed.
template <typename Allowed>
int Hottest(absl::Span<const float> load, absl::Span<const int> copies, int first,
            Allowed allowed) {
  const int experts = static_cast<int>(load.size());
  int best = -1;
  float most = 0.0f;
  for (int i = 0; i < experts; ++i) {
    const int e = first + i < experts ? first + i : first + i - experts;
    const float own = load[e] / copies[e];
    if (best >= 0 && (own < most || (own == most && copies[e] >= copies[best]))) continue;
    if (!allowed(e)) continue;
    best = e;
    most = own;
  }
  return best;
}

// Copies of each expert: those of the base, at least `holders`, and one by one, up to `total`,
// another of the hottest. At most one per rank.
std::vector<int> CountCopies(absl::Span<const float> load, const Holders& base, int holders,
                             int64_t total, int first, int ranks) {
  std::vector<int> copies(load.size());
  for (size_t e = 0; e < copies.size(); ++e) {
    copies[e] = std::max(holders, static_cast<int>(base[e].size()));
  }
  for (int64_t count = std::accumulate(copies.begin(), copies.end(), int64_t{0}); count < total;
       ++count) {
    const int best = Hottest(load, copies, first, [&](int e) { return copies[e] < ranks; });
    if (best < 0) break;  // every expert is everywhere
    ++copies[best];
  }
  return copies;
}

// Which of `count` is first in a layer, if each layer takes the next `step` of them: after each
// round one later, so that nobody stays at the end of a step.
int Turn(int layer, int64_t step, int count) {
  const int64_t taken = layer * std::max<int64_t>(step, 1);
  return static_cast<int>((taken + taken / count) % count);
}

// What a layer wants.
struct LayerRequest {
  absl::Span<const float> load;
  const Base& base;
  int holders = 1;
  int64_t total = 0;  // copies, at most one on each rank
  int layer = 0;      // of equal experts and ranks, another is first in each layer
};

// Ranks of each expert of one layer: those of the base, then more. Experts go heaviest copy first;
// each copy to the rank that (1) lacks the expert, (2) is on a host with the fewest copies of it,
// (3) has room, (4) is the emptiest in load, then in experts, (5) is the first. Room is even: a
// rank holds copies / ranks, or one more while there is a rest. Where (2) points at full ranks
// only, one of their experts moves to a rank with room, if that leaves it on as many hosts, and its
// group together. For copies beyond `holders` (3) goes before (2), and those that find no room go
// to other experts.
class LayerPlanner {
 public:
  LayerPlanner(const LayerRequest& request, absl::Span<const int> host_of_rank)
      : experts_(static_cast<int>(request.load.size())),
        ranks_(static_cast<int>(host_of_rank.size())),
        hosts_(*std::max_element(host_of_rank.begin(), host_of_rank.end()) + 1),
        even_share_(static_cast<int>(request.total / ranks_)),
        surplus_(static_cast<int>(request.total % ranks_)),
        first_expert_(
            Turn(request.layer, request.total - int64_t{experts_} * request.holders, experts_)),
        // The ranks that hold one expert more than others are the next ones in the next layer.
        first_rank_(Turn(request.layer, surplus_, ranks_)),
        request_(request),
        host_of_rank_(host_of_rank),
        copies_(CountCopies(request.load, request.base.holders, request.holders, request.total,
                            first_expert_, ranks_)),
        per_copy_(experts_),
        holds_(size_t(experts_) * ranks_, false),
        on_host_(size_t(experts_) * hosts_, 0),
        on_rank_(ranks_, 0),
        sum_(ranks_, 0.0f) {
    for (int e = 0; e < experts_; ++e) per_copy_[e] = request.load[e] / copies_[e];
  }

  Holders Plan() {
    for (int e = 0; e < experts_; ++e) {
      for (RankId rank : request_.base.holders[e]) Put(e, rank.value());
    }
    int without_room = 0;
    for (int expert : HeaviestFirst(per_copy_)) {
      const int wanted = copies_[expert];
      const int placed = static_cast<int>(request_.base.holders[expert].size());
      for (int copy = placed; copy < wanted; ++copy) {
        if (copy < request_.holders) {
          Place(expert);
        } else if (!PlaceWhereRoomIs(expert)) {
          SetCopies(expert, copies_[expert] - 1);
          ++without_room;
        }
      }
    }
    for (; without_room > 0; --without_room) PlaceAnother();
    Holders holders(experts_);
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
  bool HasRoom(int rank) const {
    return on_rank_[rank] < even_share_ + (ranks_beyond_share_ < surplus_ ? 1 : 0);
  }
  // Whether the expert's group is on this host, and the expert has but one copy there.
  bool IsHome(int host, int expert) const {
    return request_.base.grouped && CopiesOnHost(expert, host) == 1 &&
           host_of_rank_[request_.base.holders[expert].front().value()] == host;
  }

  void Put(int expert, int rank) {
    holds_[size_t(expert) * ranks_ + rank] = true;
    ++on_host_[size_t(expert) * hosts_ + host_of_rank_[rank]];
    if (++on_rank_[rank] == even_share_ + 1) ++ranks_beyond_share_;
    sum_[rank] += per_copy_[expert];
  }
  void Take(int expert, int rank) {
    holds_[size_t(expert) * ranks_ + rank] = false;
    --on_host_[size_t(expert) * hosts_ + host_of_rank_[rank]];
    if (on_rank_[rank]-- == even_share_ + 1) --ranks_beyond_share_;
    sum_[rank] -= per_copy_[expert];
  }

  void SetCopies(int expert, int copies) {
    const float before = per_copy_[expert];
    copies_[expert] = copies;
    per_copy_[expert] = request_.load[expert] / copies;
    for (int rank = 0; rank < ranks_; ++rank) {
      if (Holds(rank, expert)) sum_[rank] += per_copy_[expert] - before;
    }
  }

  // What one more copy of an expert on `rank` costs: smaller is better, in this order.
  struct Cost {
    int copies_on_host;
    bool full;
    float load;
    int experts;
    int turn;  // of the rank in this layer
    int rank;
    auto operator<=>(const Cost&) const = default;
  };

  // The cheapest rank that lacks the expert; none if all hold it, or those with room, if only they
  // will do.
  std::optional<Cost> Cheapest(int expert, bool with_room) const {
    std::optional<Cost> best;
    for (int rank = 0; rank < ranks_; ++rank) {
      if (Holds(rank, expert) || (with_room && !HasRoom(rank))) continue;
      const int turn = rank < first_rank_ ? rank + ranks_ - first_rank_ : rank - first_rank_;
      const Cost cost{CopiesOnHost(expert, host_of_rank_[rank]),
                      !HasRoom(rank),
                      sum_[rank],
                      on_rank_[rank],
                      turn,
                      rank};
      if (!best.has_value() || cost < *best) best = cost;
    }
    return best;
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
        if (target_host != host &&
            (CopiesOnHost(other, target_host) >= CopiesOnHost(other, host) || IsHome(host, other)))
          continue;
        Take(other, rank);
        Put(other, target);
        return;
      }
    }
  }

  void Place(int expert) {
    const std::optional<Cost> cost = Cheapest(expert, /*with_room=*/false);
    SHOAL_CHECK(cost.has_value());  // an expert has at most as many copies as there are ranks
    // If nothing can move, holders on different hosts matter more than one expert beyond the even
    // share.
    if (cost->full) MakeRoom(cost->rank);
    Put(expert, cost->rank);
  }

  bool PlaceWhereRoomIs(int expert) {
    const std::optional<Cost> cost = Cheapest(expert, /*with_room=*/true);
    if (cost.has_value()) Put(expert, cost->rank);
    return cost.has_value();
  }

  // One more copy of the hottest expert that fits where room is; of the hottest if none does.
  void PlaceAnother() {
    int expert = Hottest(request_.load, copies_, first_expert_, [&](int e) {
      return copies_[e] < ranks_ && Cheapest(e, /*with_room=*/true).has_value();
    });
    const bool fits = expert >= 0;
    if (!fits) {
      expert = Hottest(request_.load, copies_, first_expert_,
                       [&](int e) { return copies_[e] < ranks_; });
    }
    SetCopies(expert, copies_[expert] + 1);
    if (fits) {
      PlaceWhereRoomIs(expert);
    } else {
      Place(expert);
    }
  }

  const int experts_;
  const int ranks_;
  const int hosts_;
  const int even_share_;    // of the copies, of each rank
  const int surplus_;       // ranks that hold one more
  const int first_expert_;  // of equally hot ones
  const int first_rank_;    // of equally cheap ones
  const LayerRequest& request_;
  absl::Span<const int> host_of_rank_;
  int ranks_beyond_share_ = 0;
  std::vector<int> copies_;
  std::vector<float> per_copy_;  // load
  std::vector<bool> holds_;      // [expert, rank]
  std::vector<int> on_host_;     // [expert, host]: copies
  std::vector<int> on_rank_;     // experts
  std::vector<float> sum_;       // by rank: load
};

}  // namespace

ExpertLoad EqualLoad(absl::Span<const int> n_routed_experts) {
  ExpertLoad load;
  for (const int experts : n_routed_experts) load.emplace_back(experts, 1.0f);
  return load;
}

absl::Status CheckExpertLoad(const ExpertLoad& load, absl::Span<const int> n_routed_experts) {
  // What a sum over any number of experts can hold.
  constexpr float kMost = 1e30f;
  const auto fail = [](const auto&... what) {
    return absl::InvalidArgumentError(absl::StrCat("expert load: ", what...));
  };
  if (load.size() != n_routed_experts.size()) {
    return fail("want ", n_routed_experts.size(), " layers, found ", load.size());
  }
  for (size_t layer = 0; layer < load.size(); ++layer) {
    if (load[layer].size() != static_cast<size_t>(n_routed_experts[layer])) {
      return fail("layer ", layer, ": want ", n_routed_experts[layer], " experts, found ",
                  load[layer].size());
    }
    for (size_t expert = 0; expert < load[layer].size(); ++expert) {
      const float tokens = load[layer][expert];
      if (tokens >= 0.0f && tokens <= kMost) continue;  // NaN is not
      return fail("layer ", layer, " expert ", expert, ": want 0..", kMost, " tokens, found ",
                  tokens);
    }
  }
  return absl::OkStatus();
}

absl::Status CheckCopies(absl::Span<const int> n_routed_experts, int ranks, int holders,
                         int redundant_experts) {
  for (size_t layer = 0; layer < n_routed_experts.size(); ++layer) {
    const int64_t experts = n_routed_experts[layer];
    const int64_t wanted = experts * holders + redundant_experts, possible = experts * ranks;
    if (experts == 0 || wanted <= possible) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("layer ", layer, ": ", experts, " experts, holders ", holders,
                     " and redundant_experts ", redundant_experts, " want ", wanted,
                     " copies; one of each on ", ranks, " workers are ", possible));
  }
  return absl::OkStatus();
}

absl::StatusOr<ExpertPlacement> PlanPlacement(const PlacementRequest& request) {
  const int ranks = static_cast<int>(request.host_of_rank.size());
  if (request.holders < 1 || request.holders > ranks || request.redundant_experts < 0 ||
      request.n_group < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot place ", request.holders, " holders of every expert (and ",
                     request.redundant_experts, " redundant ones) in ", request.n_group,
                     " groups on ", ranks, " ranks"));
  }
  std::vector<int> n_routed_experts;
  for (const std::vector<float>& load : request.load) n_routed_experts.push_back(load.size());
  SHOAL_RETURN_IF_ERROR(
      CheckCopies(n_routed_experts, ranks, request.holders, request.redundant_experts));
  const EvenHosts even = SortByHost(request.host_of_rank);
  std::vector<std::vector<std::vector<RankId>>> holders;
  for (int layer = 0; layer < static_cast<int>(request.load.size()); ++layer) {
    const std::vector<float>& load = request.load[layer];
    if (load.empty()) {
      holders.emplace_back();
      continue;
    }
    const int64_t experts = load.size();
    const int64_t total = experts * request.holders + request.redundant_experts;
    const int64_t physical = request.holders == 1 ? total : experts;
    const Base base = PlanBase(load, layer, static_cast<int>(physical), request.n_group, even);
    const LayerRequest wanted{load, base, request.holders, total, layer};
    holders.push_back(LayerPlanner(wanted, request.host_of_rank).Plan());
  }
  return ExpertPlacement::Create(ranks, std::move(holders));
}

absl::StatusOr<ExpertPlacement> PlanUnit(absl::Span<const int> n_routed_experts,
                                         PlacementRequest request) {
  if (request.load.empty()) {
    if (request.holders == 1 && request.redundant_experts == 0) {
      return ExpertPlacement::Contiguous(static_cast<int>(request.host_of_rank.size()),
                                         n_routed_experts);
    }
    request.load = EqualLoad(n_routed_experts);
  }
  return PlanPlacement(request);
}

}  // namespace shoal
