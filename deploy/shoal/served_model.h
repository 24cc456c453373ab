// SPDX-License-Identifier: Apache-2.0
// What the coordinator's side knows of a model directory: everything but its weights' values.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "coordinator/api/generation_config.h"
#include "coordinator/core/expert_planner.h"
#include "deploy/shoal/config.h"
#include "engine/config/expert_placement.h"
#include "engine/config/model_config.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"
#include "engine/weights/checkpoint.h"

namespace shoal {

struct ServedModel {
  ModelConfig config;
  std::unique_ptr<Checkpoint> checkpoint;  // mapped, headers read
  std::unique_ptr<Tokenizer> tokenizer;
  std::optional<ChatFormat> chat_format;  // none: chat is refused
  SamplingDefaults sampling;
  // Who holds which expert: as a file says, or planned as for one host.
  std::shared_ptr<const ExpertPlacement> placement;
  ExpertLoad expert_load;  // of a file; empty: all experts count as equally hot
  std::string fingerprint;
  std::string name;  // what clients call it
};

// Reads and checks all of it. Errors name the file or key: those of its parts; InvalidArgument when
// tokenizer and model do not match, when there are more workers than experts that
// have one holder each, when a placement or load file is for another shape.
absl::StatusOr<ServedModel> OpenServedModel(const ShoalConfig& config);

}  // namespace shoal
