// SPDX-License-Identifier: Apache-2.0
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/text/json_file_internal.h"
#include "engine/text/json_text_internal.h"

namespace shoal {

absl::StatusOr<std::string> ReadWholeFile(const std::string& path) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  if (status.type() == std::filesystem::file_type::not_found) {
    return absl::NotFoundError(absl::StrCat(path, ": no such file"));
  }
  if (!std::filesystem::is_regular_file(status)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": not a regular file"));
  }
  std::ifstream in(path, std::ios::binary);
  if (!in) return absl::UnavailableError(absl::StrCat(path, ": ", std::strerror(errno)));
  const uintmax_t size = std::filesystem::file_size(path, error);
  if (error) return absl::UnavailableError(absl::StrCat(path, ": ", error.message()));
  // Everything this room reads is megabytes; a file of gigabytes here is a mistake, not a
  // tokenizer.
  constexpr uintmax_t kMaxBytes = uintmax_t{1} << 30;
  if (size > kMaxBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": ", size, " bytes, at most ", kMaxBytes));
  }
  std::string bytes(size, '\0');
  in.read(bytes.data(), static_cast<std::streamsize>(size));
  bytes.resize(static_cast<size_t>(in.gcount()));
  if (bytes.size() != size) {
    return absl::UnavailableError(
        absl::StrCat(path, ": read ", bytes.size(), " of ", size, " bytes"));
  }
  return bytes;
}

absl::StatusOr<nlohmann::ordered_json> ReadJsonObject(const std::string& path) {
  SHOAL_ASSIGN_OR_RETURN(const std::string bytes, ReadWholeFile(path));
  absl::StatusOr<nlohmann::ordered_json> json = ParseJsonText(bytes);
  if (!json.ok()) {
    return absl::DataLossError(
        absl::StrCat(path, " (", bytes.size(), " bytes; truncated?): ", json.status().message()));
  }
  if (!json->is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": wanted a JSON object, found ", json->type_name()));
  }
  return json;
}

}  // namespace shoal
