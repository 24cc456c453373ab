// SPDX-License-Identifier: Apache-2.0
// Reads a JSON file of a checkpoint directory. Private to this room: public headers stay free of
// JSON.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/statusor.h"

namespace shoal {

// NotFound: no such file. Unavailable: cannot be read. DataLoss: not JSON, or cut short; says
// where. InvalidArgument: not an object.
absl::StatusOr<nlohmann::json> ReadJsonObject(const std::string& path);

// The whole file as bytes; errors as above.
absl::StatusOr<std::string> ReadWholeFile(const std::string& path);

}  // namespace shoal
