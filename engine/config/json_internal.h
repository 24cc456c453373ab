// SPDX-License-Identifier: Apache-2.0
// JSON written by strangers: configs, indexes, headers. For .cc files of config and weights.
#pragma once

#include <nlohmann/json.hpp>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace shoal {

// Errors: InvalidArgument when the text is not JSON, is nested more than 32 deep (the library
// recurses when it copies and prints), or gives a name twice within one object (it would keep the
// last).
absl::StatusOr<nlohmann::json> ParseJson(absl::string_view text);

}  // namespace shoal
