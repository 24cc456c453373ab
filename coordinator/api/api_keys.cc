// SPDX-License-Identifier: Apache-2.0
// See api_keys.h.
#include "coordinator/api/api_keys.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace shoal {
namespace {

std::array<uint8_t, 32> Sha256(absl::string_view text) {
  std::array<uint8_t, 32> digest;
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest.data());
  return digest;
}

}  // namespace

absl::StatusOr<ApiKeys> ApiKeys::Load(const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) return absl::NotFoundError(absl::StrCat("API key file ", file, ": cannot be read"));
  if (std::error_code ignored; !std::filesystem::is_regular_file(file, ignored)) {
    return absl::InvalidArgumentError(absl::StrCat("API key file ", file, ": is no file"));
  }
  const std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  auto keys = Parse(text);
  if (keys.ok()) return keys;
  return absl::InvalidArgumentError(
      absl::StrCat("API key file ", file, ": ", keys.status().message()));
}

absl::StatusOr<ApiKeys> ApiKeys::Parse(absl::string_view text) {
  ApiKeys keys;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    const absl::string_view key = absl::StripAsciiWhitespace(line);
    if (!key.empty() && key.front() != '#') keys.digests_.push_back(Sha256(key));
  }
  if (keys.digests_.empty()) return absl::InvalidArgumentError("holds no key");
  return keys;
}

bool ApiKeys::Allow(absl::string_view authorization) const {
  if (digests_.empty()) return true;
  constexpr absl::string_view kScheme = "Bearer ";
  if (!absl::StartsWithIgnoreCase(authorization, kScheme)) return false;
  const auto digest = Sha256(absl::StripAsciiWhitespace(authorization.substr(kScheme.size())));
  bool allowed = false;
  for (const Digest& known : digests_) {  // all of them, whichever matches
    allowed |= CRYPTO_memcmp(known.data(), digest.data(), digest.size()) == 0;
  }
  return allowed;
}

}  // namespace shoal
