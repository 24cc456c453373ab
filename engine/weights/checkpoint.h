// SPDX-License-Identifier: Apache-2.0
// A Hugging Face model directory: the shards that model.safetensors.index.json names, or one
// model.safetensors without an index.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/weights/safetensors.h"

namespace shoal {

class Checkpoint {
 public:
  // A tensor and the shard it lies in.
  struct Location {
    const SafetensorsFile* shard = nullptr;
    const TensorEntry* entry = nullptr;
  };

  // Maps every shard and reads every header, no data. Errors: NotFound when there is neither index
  // nor model.safetensors, naming a shard that is missing; InvalidArgument naming a tensor that the
  // index places in a shard without it, or that two shards hold.
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& directory);

  // Null if there is no such tensor.
  const Location* Find(const std::string& name) const;
  const std::string& directory() const { return directory_; }
  const std::map<std::string, Location>& tensors() const { return tensors_; }

 private:
  absl::Status AddShard(const std::string& file_name);

  std::string directory_;
  std::vector<std::unique_ptr<SafetensorsFile>> shards_;
  std::map<std::string, Location> tensors_;
};

}  // namespace shoal
