// SPDX-License-Identifier: Apache-2.0
// Reads a JSON file of a checkpoint directory. For .cc files only: public headers stay free of
// JSON.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/statusor.h"

namespace shoal {

// NotFound: no such file. Unavailable: cannot be read. DataLoss: not JSON, cut short, or nested
// absurdly deep; says where. InvalidArgument: not an object, or not a file.
absl::StatusOr<nlohmann::ordered_json> ReadJsonObject(const std::string& path);

// The whole file as bytes; errors as above.
absl::StatusOr<std::string> ReadWholeFile(const std::string& path);

}  // namespace shoal
