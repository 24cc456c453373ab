// SPDX-License-Identifier: Apache-2.0
#include "engine/config/expert_placement.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/base/status_macros.h"
#include "engine/config/json_internal.h"

namespace shoal {
namespace {

constexpr int kMaxWorldSize = 1 << 16;

absl::Status CheckHolders(int world_size, size_t layer, size_t expert,
                          const std::vector<RankId>& holders) {
  const auto fail = [&](absl::string_view what) {
    return absl::InvalidArgumentError(
        absl::StrCat("expert placement: layer ", layer, " expert ", expert, ": ", what));
  };
  if (holders.empty()) return fail("no rank holds it, want at least one");
  for (size_t i = 0; i < holders.size(); ++i) {
    const int rank = holders[i].value();
    if (rank < 0 || rank >= world_size) {
      return fail(absl::StrCat("rank ", rank, ", want 0..", world_size - 1));
    }
    if (i > 0 && !(holders[i - 1] < holders[i])) {
      return fail(absl::StrCat("ranks ", holders[i - 1].value(), ", ", rank, ", want ascending"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ExpertPlacement> ExpertPlacement::Create(
    int world_size, std::vector<std::vector<std::vector<RankId>>> holders) {
  if (world_size < 1 || world_size > kMaxWorldSize) {
    return absl::InvalidArgumentError(
        absl::StrCat("expert placement: world_size ", world_size, ", want 1..", kMaxWorldSize));
  }
  for (size_t layer = 0; layer < holders.size(); ++layer) {
    for (size_t expert = 0; expert < holders[layer].size(); ++expert) {
      SHOAL_RETURN_IF_ERROR(CheckHolders(world_size, layer, expert, holders[layer][expert]));
    }
  }
  ExpertPlacement placement;
  placement.world_size_ = world_size;
  placement.holders_ = std::move(holders);
  return placement;
}

absl::StatusOr<ExpertPlacement> ExpertPlacement::Contiguous(
    int world_size, absl::Span<const int> n_routed_experts) {
  std::vector<std::vector<std::vector<RankId>>> holders(n_routed_experts.size());
  for (size_t layer = 0; layer < n_routed_experts.size(); ++layer) {
    const int64_t experts = n_routed_experts[layer];
    if (experts == 0) continue;
    if (world_size < 1 || world_size > experts) {
      return absl::InvalidArgumentError(absl::StrCat("layer ", layer, " has ", experts,
                                                     " routed experts: want 1..", experts,
                                                     " workers, found ", world_size));
    }
    holders[layer].resize(experts);
    for (int64_t rank = 0; rank < world_size; ++rank) {
      for (int64_t e = rank * experts / world_size; e < (rank + 1) * experts / world_size; ++e) {
        holders[layer][e] = {RankId(static_cast<int32_t>(rank))};
      }
    }
  }
  return Create(world_size, std::move(holders));
}

std::vector<bool> ExpertPlacement::Marked(absl::Span<const RankId> ranks) const {
  std::vector<bool> marked(world_size_, false);
  for (const RankId rank : ranks) {
    if (rank.value() >= 0 && rank.value() < world_size_) marked[rank.value()] = true;
  }
  return marked;
}

absl::Status ExpertPlacement::CheckWithout(absl::Span<const RankId> absent) const {
  const std::vector<bool> gone = Marked(absent);
  const auto is_gone = [&](RankId rank) { return gone[rank.value()]; };
  for (size_t layer = 0; layer < holders_.size(); ++layer) {
    for (size_t expert = 0; expert < holders_[layer].size(); ++expert) {
      const std::vector<RankId>& ranks = holders_[layer][expert];
      if (!std::all_of(ranks.begin(), ranks.end(), is_gone)) continue;
      const auto append = [](std::string* out, RankId rank) { absl::StrAppend(out, rank.value()); };
      return absl::FailedPreconditionError(
          absl::StrCat("layer ", layer, " expert ", expert, ": no holder is left of ranks ",
                       absl::StrJoin(ranks, ", ", append)));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<ExpertPlacement> ExpertPlacement::Without(absl::Span<const RankId> absent) const {
  SHOAL_RETURN_IF_ERROR(CheckWithout(absent));
  const std::vector<bool> gone = Marked(absent);
  ExpertPlacement left = *this;
  for (std::vector<std::vector<RankId>>& layer : left.holders_) {
    for (std::vector<RankId>& ranks : layer) {
      std::erase_if(ranks, [&](RankId rank) { return gone[rank.value()]; });
    }
  }
  return left;
}

absl::Status ExpertPlacement::CheckFits(int world_size,
                                        absl::Span<const int> n_routed_experts) const {
  const auto fail = [](const auto&... what) {
    return absl::InvalidArgumentError(absl::StrCat("expert placement: ", what...));
  };
  if (world_size_ != world_size) {
    return fail("want ", world_size, " workers, found ", world_size_);
  }
  if (holders_.size() != n_routed_experts.size()) {
    return fail("want ", n_routed_experts.size(), " layers, found ", holders_.size());
  }
  for (size_t layer = 0; layer < holders_.size(); ++layer) {
    if (holders_[layer].size() == static_cast<size_t>(n_routed_experts[layer])) continue;
    return fail("layer ", layer, ": want ", n_routed_experts[layer], " experts, found ",
                holders_[layer].size());
  }
  return absl::OkStatus();
}

std::vector<ExpertId> ExpertPlacement::HeldBy(int layer, RankId rank) const {
  std::vector<ExpertId> held;
  for (size_t expert = 0; expert < holders_[layer].size(); ++expert) {
    const std::vector<RankId>& holders = holders_[layer][expert];
    if (std::binary_search(holders.begin(), holders.end(), rank)) {
      held.push_back(ExpertId(static_cast<int32_t>(expert)));
    }
  }
  return held;
}

absl::StatusOr<ExpertPlacement> ExpertPlacement::FromJson(absl::string_view text) {
  const auto fail = [](auto&&... what) {
    return absl::InvalidArgumentError(absl::StrCat("expert placement: ", what...));
  };
  const auto parsed = ParseJson(text);
  if (!parsed.ok()) return fail(parsed.status().message());
  const nlohmann::json& json = *parsed;
  if (!json.is_object()) return fail("want a JSON object");
  const auto world = json.find("world_size");
  if (world == json.end() || !world->is_number_integer() || *world < 1 || *world > kMaxWorldSize) {
    return fail("world_size: want an integer 1..", kMaxWorldSize, ", found ",
                world == json.end() ? "nothing" : world->dump());
  }
  const auto layers = json.find("layers");
  if (layers == json.end() || !layers->is_array()) {
    return fail(
        "layers: want a list, [[], [[0], [1], [0, 1]]]: a dense layer, and one whose third expert "
        "is on ranks 0 and 1");
  }

  std::vector<std::vector<std::vector<RankId>>> holders(layers->size());
  for (size_t layer = 0; layer < layers->size(); ++layer) {
    const nlohmann::json& experts = (*layers)[layer];
    if (!experts.is_array()) return fail("layer ", layer, ": want a list of experts");
    holders[layer].resize(experts.size());
    for (size_t expert = 0; expert < experts.size(); ++expert) {
      if (!experts[expert].is_array()) {
        return fail("layer ", layer, " expert ", expert, ": want a list of ranks, found ",
                    experts[expert].dump(-1, ' ', true, nlohmann::json::error_handler_t::replace));
      }
      for (const nlohmann::json& rank : experts[expert]) {
        if (!rank.is_number_integer() || rank < 0 || rank >= kMaxWorldSize) {
          return fail("layer ", layer, " expert ", expert, ": want ranks, found ",
                      rank.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace));
        }
        holders[layer][expert].push_back(RankId(rank.get<int32_t>()));
      }
    }
  }
  return Create(world->get<int>(), std::move(holders));
}

std::string ExpertPlacement::ToJson() const {
  nlohmann::json layers = nlohmann::json::array();
  for (const auto& experts : holders_) {
    nlohmann::json layer = nlohmann::json::array();
    for (const std::vector<RankId>& holders : experts) {
      nlohmann::json ranks = nlohmann::json::array();
      for (RankId rank : holders) ranks.push_back(rank.value());
      layer.push_back(std::move(ranks));
    }
    layers.push_back(std::move(layer));
  }
  return nlohmann::json{{"world_size", world_size_}, {"layers", std::move(layers)}}.dump();
}

}  // namespace shoal
