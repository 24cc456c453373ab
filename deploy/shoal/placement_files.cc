// SPDX-License-Identifier: Apache-2.0
#include "deploy/shoal/placement_files.h"

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "coordinator/core/expert_planner.h"
#include "engine/base/status_macros.h"
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

// What the core would plan if all workers were on one host. How busy an expert will be is not known
// before it has served.
absl::StatusOr<ExpertPlacement> PlanForOneHost(const ShoalConfig& config,
                                               const ModelConfig& model) {
  const std::vector<int> experts = model.RoutedExperts();
  if (config.holders == 1 && config.redundant_experts == 0) {
    return ExpertPlacement::Contiguous(config.workers, experts);
  }
  PlacementRequest request;
  for (int count : experts) request.load.emplace_back(count, 1.0f);
  request.host_of_rank.assign(config.workers, 0);
  request.holders = config.holders;
  request.redundant_experts = config.redundant_experts;
  request.n_group = model.ExpertGroups();
  return PlanPlacement(request);
}

}  // namespace

absl::StatusOr<ExpertPlacement> OpenPlacement(const ShoalConfig& config, const ModelConfig& model) {
  if (config.placement.empty()) {
    absl::StatusOr<ExpertPlacement> planned = PlanForOneHost(config, model);
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
