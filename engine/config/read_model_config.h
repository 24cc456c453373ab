// SPDX-License-Identifier: Apache-2.0
// A model's description from its directory.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "engine/config/model_config.h"

namespace shoal {

// Reads `directory`/config.json and, if there is one, generation_config.json. Errors: NotFound
// naming the file; else as of ParseModelConfig, prefixed with the directory.
absl::StatusOr<ModelConfig> ReadModelConfig(const std::string& directory);

// A whole small file. NotFound or Unavailable naming it and the reason; ResourceExhausted beyond 64
// MiB.
absl::StatusOr<std::string> ReadSmallFile(const std::string& path);

}  // namespace shoal
