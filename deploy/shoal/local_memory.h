// SPDX-License-Identifier: Apache-2.0
// Whether this machine can hold the ranks that a command is about to load into its own process.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "engine/config/expert_placement.h"
#include "engine/config/model_config.h"
#include "engine/model/model.h"

namespace shoal {

// Every rank of `placement`, each with `options`. Errors: ResourceExhausted with the byte ledger;
// those of opening the checkpoint.
absl::Status CheckLocalMemory(const std::string& directory, const ModelConfig& config,
                              const ExpertPlacement& placement, const ModelOptions& options,
                              const std::string& backend);

}  // namespace shoal
