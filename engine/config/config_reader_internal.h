// SPDX-License-Identifier: Apache-2.0
// Reads a JSON object key by key against what is wanted, and knows afterwards which keys nobody
// asked for. Private to this room: it is the one header here that sees the JSON library.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace shoal {

// The first error sticks; getters then return harmless values. A key that is null counts as absent.
class ConfigReader {
 public:
  // `name` is what errors call the document: "config.json".
  static absl::StatusOr<ConfigReader> Parse(absl::string_view name, absl::string_view text);

  bool Has(const char* key) const;

  // Required, within [low, high]. Integers may be written as 64.0, as some tools do.
  int64_t Int(const char* key, int64_t low, int64_t high);
  int64_t IntOr(const char* key, int64_t fallback, int64_t low, int64_t high);
  double Number(const char* key, double low, double high);
  double NumberOr(const char* key, double fallback, double low, double high);
  bool BoolOr(const char* key, bool fallback);
  std::string StringOr(const char* key, absl::string_view fallback);
  std::vector<std::string> Strings(const char* key);                           // empty when absent
  std::vector<int64_t> IntOrInts(const char* key, int64_t low, int64_t high);  // empty when absent
  ConfigReader Object(const char* key);                                        // empty when absent

  // Keys that change nothing.
  void Ignore(std::initializer_list<const char*> keys);

  // Record a fault of this document's key.
  void Invalid(const std::string& key, const std::string& wanted, const std::string& found);
  void Unsupported(const std::string& key, const std::string& wanted, const std::string& found);
  void Adopt(const ConfigReader& child);  // takes over a child's Finish()

  // What the document says for `key`, shortened for a message.
  std::string Found(const char* key) const;

  // The first error; else Unimplemented for the first key that nobody read. Keys that start with
  // '_' are tools' own notes.
  absl::Status Finish() const;

 private:
  const nlohmann::json* Find(const char* key);
  void Fail(absl::Status status) {
    if (status_.ok()) status_ = std::move(status);
  }

  std::string name_;
  nlohmann::json object_ = nlohmann::json::object();
  std::set<std::string> read_;
  absl::Status status_;
};

}  // namespace shoal
