// SPDX-License-Identifier: Apache-2.0
#include "engine/weights/checkpoint.h"

#include <filesystem>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/config/json_internal.h"
#include "engine/config/read_model_config.h"

namespace shoal {
namespace {

constexpr char kIndexName[] = "model.safetensors.index.json";
constexpr char kSingleName[] = "model.safetensors";

// Tensor -> shard, as the index says.
absl::StatusOr<std::map<std::string, std::string>> ParseIndex(const std::string& path) {
  SHOAL_ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(path));
  const auto parsed = ParseJson(text);
  if (!parsed.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", parsed.status().message()));
  }
  const nlohmann::json& json = *parsed;
  if (!json.is_object() || !json.contains("weight_map") || !json["weight_map"].is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": want an object with a weight_map"));
  }
  std::map<std::string, std::string> weight_map;
  for (const auto& [name, shard] : json["weight_map"].items()) {
    // A shard is a file of this directory; nothing that leads out of it.
    if (!shard.is_string() || shard.get<std::string>().empty() ||
        absl::StrContains(shard.get<std::string>(), '/')) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": ", name, ": want the name of a shard, found ",
                       shard.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace)));
    }
    weight_map.emplace(name, shard.get<std::string>());
  }
  if (weight_map.empty())
    return absl::InvalidArgumentError(absl::StrCat(path, ": names no tensor"));
  return weight_map;
}

// What a directory without index and without model.safetensors holds instead.
std::string DescribeFolder(const std::string& directory) {
  int shards = 0;
  std::error_code error;
  for (const auto& file : std::filesystem::directory_iterator(directory, error)) {
    if (file.path().extension() == ".safetensors") ++shards;
  }
  if (error) return absl::StrCat("not a readable folder (", error.message(), ")");
  return absl::StrCat(shards, " other .safetensors files");
}

}  // namespace

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::Open(const std::string& directory) {
  auto checkpoint = std::make_unique<Checkpoint>();
  checkpoint->directory_ = directory;
  const std::string index_path = absl::StrCat(directory, "/", kIndexName);
  std::error_code error;
  if (!std::filesystem::exists(index_path, error)) {
    if (!std::filesystem::exists(absl::StrCat(directory, "/", kSingleName), error)) {
      return absl::NotFoundError(absl::StrCat(directory, ": want ", kIndexName, " or ", kSingleName,
                                              ", found ", DescribeFolder(directory)));
    }
    SHOAL_RETURN_IF_ERROR(checkpoint->AddShard(kSingleName));
    return checkpoint;
  }
  SHOAL_ASSIGN_OR_RETURN(const auto weight_map, ParseIndex(index_path));
  std::set<std::string> shards;
  for (const auto& [name, shard] : weight_map) shards.insert(shard);
  for (const std::string& shard : shards) SHOAL_RETURN_IF_ERROR(checkpoint->AddShard(shard));
  for (const auto& [name, shard] : weight_map) {
    const Location* location = checkpoint->Find(name);
    if (location == nullptr || location->shard->path() != absl::StrCat(directory, "/", shard)) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ": the index wants it in ", shard, ", found ",
                       location == nullptr ? "nowhere" : location->shard->path()));
    }
  }
  return checkpoint;
}

absl::Status Checkpoint::AddShard(const std::string& file_name) {
  SHOAL_ASSIGN_OR_RETURN(auto shard,
                         SafetensorsFile::Open(absl::StrCat(directory_, "/", file_name)));
  for (const auto& [name, entry] : shard->tensors()) {
    const auto [it, inserted] = tensors_.emplace(name, Location{shard.get(), &entry});
    if (!inserted) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ": both in ", it->second.shard->path(), " and in ", shard->path()));
    }
  }
  shards_.push_back(std::move(shard));
  return absl::OkStatus();
}

const Checkpoint::Location* Checkpoint::Find(const std::string& name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : &it->second;
}

}  // namespace shoal
