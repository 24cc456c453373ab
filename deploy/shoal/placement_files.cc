// SPDX-License-Identifier: Apache-2.0
#include "deploy/shoal/placement_files.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "coordinator/core/expert_planner.h"
#include "engine/base/status_macros.h"
#include "engine/config/json_internal.h"
#include "engine/config/read_model_config.h"

namespace shoal {
namespace {

// A placement file must have what --holders promises.
absl::Status CheckHolders(const ShoalConfig& config, const ExpertPlacement& placement) {
  for (int layer = 0; layer < placement.layers(); ++layer) {
    for (int expert = 0; expert < placement.n_routed_experts(layer); ++expert) {
      const size_t holders = placement.Holders(layer, ExpertId(expert)).size();
      if (holders >= static_cast<size_t>(config.holders)) continue;
      return absl::InvalidArgumentError(absl::StrCat(config.placement, ": layer ", layer,
                                                     " expert ", expert, " has ", holders,
                                                     " holders, --holders wants ", config.holders));
    }
  }
  return absl::OkStatus();
}

// What the core would plan if all workers were on one host.
absl::StatusOr<ExpertPlacement> PlanForOneHost(const ShoalConfig& config, const ModelConfig& model,
                                               const ExpertLoad& load) {
  PlacementRequest request;
  request.load = load;
  request.host_of_rank.assign(config.workers, 0);
  request.holders = config.holders;
  request.redundant_experts = config.redundant_experts;
  request.n_group = model.ExpertGroups();
  return PlanUnit(model.RoutedExperts(), std::move(request));
}

// {"load": [[tokens per expert], ...]}
absl::StatusOr<ExpertLoad> ParseExpertLoad(absl::string_view text) {
  const auto fail = [](const auto&... what) {
    return absl::InvalidArgumentError(absl::StrCat("expert load: ", what...));
  };
  const auto json = ParseJson(text);
  if (!json.ok()) return fail(json.status().message());
  const auto layers = json->is_object() ? json->find("load") : json->end();
  if (layers == json->end() || !layers->is_array()) {
    return fail("want {\"load\": [[], [120, 7.5]]}: a dense layer, and one of two experts");
  }
  ExpertLoad load;
  for (const nlohmann::json& experts : *layers) {
    std::vector<float>& tokens = load.emplace_back();
    if (!experts.is_array()) return fail("layer ", load.size() - 1, ": want a list of numbers");
    for (const nlohmann::json& value : experts) {
      if (!value.is_number()) {
        return fail("layer ", load.size() - 1, " expert ", tokens.size(),
                    ": want a number of tokens, found ",
                    value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace));
      }
      tokens.push_back(static_cast<float>(value.get<double>()));
    }
  }
  return load;
}

}  // namespace

absl::StatusOr<ExpertLoad> OpenExpertLoad(const ShoalConfig& config, const ModelConfig& model) {
  if (config.expert_load.empty()) return ExpertLoad();
  SHOAL_ASSIGN_OR_RETURN(const std::string json, ReadSmallFile(config.expert_load));
  absl::StatusOr<ExpertLoad> load = ParseExpertLoad(json);
  absl::Status status = load.status();
  if (status.ok()) status = CheckExpertLoad(*load, model.RoutedExperts());
  if (status.ok()) return load;
  return absl::InvalidArgumentError(absl::StrCat(config.expert_load, ": ", status.message()));
}

absl::StatusOr<ExpertPlacement> OpenPlacement(const ShoalConfig& config, const ModelConfig& model,
                                              const ExpertLoad& load) {
  if (config.placement.empty()) {
    absl::StatusOr<ExpertPlacement> planned = PlanForOneHost(config, model, load);
    if (planned.ok()) return planned;
    return absl::InvalidArgumentError(
        absl::StrCat("--workers ", config.workers, ": ", planned.status().message()));
  }
  const std::vector<int> experts = model.RoutedExperts();
  SHOAL_ASSIGN_OR_RETURN(const std::string json, ReadSmallFile(config.placement));
  absl::StatusOr<ExpertPlacement> placement = ExpertPlacement::FromJson(json);
  if (!placement.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(config.placement, ": ", placement.status().message()));
  }
  if (placement->world_size() != config.workers) {
    return absl::InvalidArgumentError(absl::StrCat(config.placement, ": is for ",
                                                   placement->world_size(),
                                                   " workers, --workers says ", config.workers));
  }
  if (placement->layers() != static_cast<int>(experts.size())) {
    return absl::InvalidArgumentError(absl::StrCat(config.placement, ": has ", placement->layers(),
                                                   " layers, the model ", experts.size()));
  }
  for (int layer = 0; layer < placement->layers(); ++layer) {
    if (placement->n_routed_experts(layer) != experts[layer]) {
      return absl::InvalidArgumentError(absl::StrCat(config.placement, ": layer ", layer, " has ",
                                                     placement->n_routed_experts(layer),
                                                     " experts, the model ", experts[layer]));
    }
  }
  SHOAL_RETURN_IF_ERROR(CheckHolders(config, *placement));
  return placement;
}

}  // namespace shoal
