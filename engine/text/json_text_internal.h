// SPDX-License-Identifier: Apache-2.0
// JSON from outside, kept the way a prompt must show it: members in order, numbers not rounded. Its
// depth is limited, so that no later walk over it can exhaust the stack. Private to this room:
// public headers stay free of JSON.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace shoal {

// Parses `text`. A repeated key keeps its first place and its last value. Integers beyond 64 bits,
// which the library would round, are carried as `binary` values holding their digits (JSON text has
// no other use for that type). InvalidArgument: not JSON, not UTF-8, or nested deeper than
// kMaxJsonDepth.
absl::StatusOr<nlohmann::ordered_json> ParseJsonText(absl::string_view text);
inline constexpr int kMaxJsonDepth = 100;

// `value` written as Python's json.dumps(value, ensure_ascii=False) does, which is what the chat
// templates use:
// ", " and ": " between items, non-ASCII literally, floats as repr() (1e-05, 1000.0).
std::string ToPythonJson(const nlohmann::ordered_json& value);

}  // namespace shoal
