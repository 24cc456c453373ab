// SPDX-License-Identifier: Apache-2.0
// Reading the fields of a JSON object that a client sent: types and ranges checked, unknown fields
// found, every error naming its field.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace shoal {

// Parses a body that must be one JSON object. InvalidArgument for anything else: malformed JSON or
// UTF-8 (with the place), nesting deeper than 100 levels, a key that an object has twice.
absl::StatusOr<nlohmann::json> ParseJsonObject(absl::string_view body);

// A short, printable form of a value for error messages.
std::string Shown(const nlohmann::json& value);

// Reads fields by name. `null` counts as absent, which leaves the output as it is. The first error
// sticks, and further calls change nothing.
class JsonFields {
 public:
  explicit JsonFields(const nlohmann::json& object) : object_(object) {}

  // The value if it is there and not null.
  const nlohmann::json* Find(absl::string_view name);

  void Bool(absl::string_view name, bool& out);
  void Int(absl::string_view name, int64_t low, int64_t high, int64_t& out);
  void Int(absl::string_view name, int64_t low, int64_t high, int32_t& out);
  void Int(absl::string_view name, int64_t low, int64_t high, std::optional<int64_t>& out);
  // [low, high], or (low, high] with `open`.
  void Number(absl::string_view name, double low, double high, float& out, bool open = false);
  void String(absl::string_view name, size_t max_bytes, std::string& out);
  // A list of integers within [low, high].
  void Ints(absl::string_view name, int64_t low, int64_t high, size_t max_count,
            std::vector<int32_t>& out);
  // A field that is accepted and means nothing here.
  void Ignore(absl::string_view name) { known_.insert(std::string(name)); }
  // A field that may only have values that ask for nothing: null, false, or one of `allowed`.
  void Only(absl::string_view name, const std::vector<nlohmann::json>& allowed,
            absl::string_view why);

  // Records an error of the caller's own.
  void Fail(absl::Status status) { status_.Update(status); }
  const absl::Status& status() const { return status_; }
  // The first error; else an error about the first field that nobody asked for.
  absl::Status Finish() const;

 private:
  const nlohmann::json& object_;
  std::set<std::string, std::less<>> known_;
  absl::Status status_;
};

}  // namespace shoal
