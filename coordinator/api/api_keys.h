// SPDX-License-Identifier: Apache-2.0
// Who may ask: the keys of a file, compared without telling by the time it takes how close a guess
// was.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace shoal {

class ApiKeys {
 public:
  // No keys: everybody may.
  ApiKeys() = default;
  // One key a line; empty lines and lines that begin with '#' are skipped. NotFound without such a
  // file, InvalidArgument when it holds no key.
  static absl::StatusOr<ApiKeys> Load(const std::string& file);
  static absl::StatusOr<ApiKeys> Parse(absl::string_view text);

  // `authorization` is the header's value: "Bearer KEY".
  bool Allow(absl::string_view authorization) const;

 private:
  using Digest = std::array<uint8_t, 32>;  // SHA-256: equal lengths, and no key stays in memory
  std::vector<Digest> digests_;
};

}  // namespace shoal
