// SPDX-License-Identifier: Apache-2.0
#include "engine/config/read_model_config.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"

namespace shoal {

absl::StatusOr<std::string> ReadSmallFile(const std::string& path) {
  constexpr uintmax_t kLargest = 64 << 20;
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": want a file, found a directory"));
  }
  std::ifstream in(path, std::ios::binary);
  if (!in) {
    const std::string why = absl::StrCat(path, ": cannot open: ", std::strerror(errno));
    return errno == ENOENT ? absl::NotFoundError(why) : absl::UnavailableError(why);
  }
  const uintmax_t size = std::filesystem::file_size(path, error);
  if (!error && size > kLargest) {
    return absl::ResourceExhaustedError(
        absl::StrCat(path, ": want at most ", kLargest, " bytes, found ", size));
  }
  std::string text(std::istreambuf_iterator<char>(in), {});
  if (in.bad())
    return absl::UnavailableError(absl::StrCat(path, ": cannot read: ", std::strerror(errno)));
  return text;
}

absl::StatusOr<ModelConfig> ReadModelConfig(const std::string& directory) {
  SHOAL_ASSIGN_OR_RETURN(const std::string config, ReadSmallFile(directory + "/config.json"));
  absl::StatusOr<std::string> generation = ReadSmallFile(directory + "/generation_config.json");
  if (!generation.ok()) {
    if (!absl::IsNotFound(generation.status())) return generation.status();
    generation = "";
  }
  absl::StatusOr<ModelConfig> parsed = ParseModelConfig(config, *generation);
  if (!parsed.ok()) {
    return absl::Status(parsed.status().code(),
                        absl::StrCat(directory, ": ", parsed.status().message()));
  }
  return parsed;
}

}  // namespace shoal
