// SPDX-License-Identifier: Apache-2.0
#include "deploy/shoal/served_model.h"

#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "deploy/shoal/fingerprint.h"
#include "deploy/shoal/placement_files.h"
#include "engine/base/status_macros.h"
#include "engine/config/read_model_config.h"
#include "engine/tokenizer_match.h"
#include "spdlog/spdlog.h"

namespace shoal {
namespace {

// "deploy/models/shoal-tiny/" -> "shoal-tiny".
std::string DirectoryName(const std::string& directory) {
  std::error_code error;
  std::filesystem::path path = std::filesystem::absolute(directory, error).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  return path.filename().string();
}

}  // namespace

absl::StatusOr<ServedModel> OpenServedModel(const ShoalConfig& config) {
  ServedModel model;
  SHOAL_ASSIGN_OR_RETURN(model.config, ReadModelConfig(config.model));
  SHOAL_ASSIGN_OR_RETURN(model.tokenizer, Tokenizer::Load(config.model));
  SHOAL_RETURN_IF_ERROR(CheckTokenizerMatches(config.model, model.config, *model.tokenizer));
  if (!config.chat_format.empty()) {
    SHOAL_ASSIGN_OR_RETURN(model.chat_format, ParseChatFormat(config.chat_format));
  } else if (absl::StatusOr<ChatFormat> format = DetectChatFormat(config.model); format.ok()) {
    model.chat_format = *format;
  } else {
    spdlog::warn("chat completions are off: {}", std::string(format.status().message()));
  }
  std::string generation_config;
  const std::string generation_file = config.model + "/generation_config.json";
  if (std::filesystem::exists(generation_file)) {
    SHOAL_ASSIGN_OR_RETURN(generation_config, ReadSmallFile(generation_file));
  }
  absl::StatusOr<SamplingDefaults> sampling = ParseSamplingDefaults(generation_config);
  if (!sampling.ok()) {
    return absl::Status(sampling.status().code(),
                        absl::StrCat(generation_file, ": ", sampling.status().message()));
  }
  model.sampling = *sampling;
  SHOAL_ASSIGN_OR_RETURN(model.expert_load, OpenExpertLoad(config, model.config));
  SHOAL_ASSIGN_OR_RETURN(ExpertPlacement placement,
                         OpenPlacement(config, model.config, model.expert_load));
  model.placement = std::make_shared<const ExpertPlacement>(std::move(placement));
  SHOAL_ASSIGN_OR_RETURN(model.checkpoint, Checkpoint::Open(config.model));
  SHOAL_ASSIGN_OR_RETURN(model.fingerprint, ModelFingerprint(*model.checkpoint));
  model.name =
      config.served_model_name.empty() ? DirectoryName(config.model) : config.served_model_name;
  return model;
}

}  // namespace shoal
