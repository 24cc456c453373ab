// SPDX-License-Identifier: Apache-2.0
// The files that say which worker holds which expert, or how to plan it.
#pragma once

#include "absl/status/statusor.h"
#include "coordinator/core/expert_planner.h"
#include "deploy/shoal/config.h"
#include "engine/config/expert_placement.h"
#include "engine/config/model_config.h"

namespace shoal {

// How hot each expert is, as --expert-load says; empty without it. Errors: InvalidArgument naming
// the file, layer and expert when it is for another shape or has no sensible numbers.
absl::StatusOr<ExpertLoad> OpenExpertLoad(const ShoalConfig& config, const ModelConfig& model);

// Who holds which expert: as --placement says, or planned as if all workers were on one host.
// Errors: InvalidArgument when a placement file is for another shape or has too few holders, when
// experts with one holder are fewer than workers.
absl::StatusOr<ExpertPlacement> OpenPlacement(const ShoalConfig& config, const ModelConfig& model,
                                              const ExpertLoad& load);

}  // namespace shoal
