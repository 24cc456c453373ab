// SPDX-License-Identifier: Apache-2.0
// A golden checkpoint copied to a temporary folder, to be damaged there: tensors as values in
// memory, written out as one shard with an index, as two, or as a single file without one.
#pragma once

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/weights/checkpoint.h"
#include "engine/weights/safetensors_writer.h"
#include "gtest/gtest.h"

namespace shoal {

class CheckpointCopy {
 public:
  struct Tensor {
    DType dtype;
    std::vector<int64_t> shape;
    std::vector<std::byte> data;
  };

  explicit CheckpointCopy(const std::string& model) {
    static std::mt19937_64 random(std::random_device{}());
    folder_ = absl::StrCat(::testing::TempDir(), "/shoal-checkpoint-", random());
    std::filesystem::create_directories(folder_);
    const std::string source = absl::StrCat(SHOAL_SOURCE_DIR, "/tests/golden/models/", model);
    std::filesystem::copy_file(source + "/config.json", folder_ + "/config.json");
    const auto checkpoint = Checkpoint::Open(source);
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    for (const auto& [name, location] : (*checkpoint)->tensors()) {
      const auto data = location.shard->Data(*location.entry);
      tensors[name] = {*location.entry->dtype, location.entry->shape, {data.begin(), data.end()}};
    }
  }
  ~CheckpointCopy() { std::filesystem::remove_all(folder_); }
  CheckpointCopy(const CheckpointCopy&) = delete;
  CheckpointCopy& operator=(const CheckpointCopy&) = delete;

  const std::string& folder() const { return folder_; }
  std::string Path(const std::string& name) const { return absl::StrCat(folder_, "/", name); }

  // One file without index.
  void WriteSingle() { WriteShard("model.safetensors", tensors); }

  // Two shards and an index.
  void WriteShards() {
    std::map<std::string, Tensor> parts[2];
    std::string index = "{\"weight_map\": {";
    int i = 0;
    for (const auto& [name, tensor] : tensors) {
      const int part = 2 * i++ < static_cast<int>(tensors.size()) ? 0 : 1;
      parts[part].emplace(name, tensor);
      absl::StrAppend(&index, i == 1 ? "" : ",", "\"", name, "\": \"", kShards[part], "\"");
    }
    for (int part : {0, 1}) WriteShard(kShards[part], parts[part]);
    WriteText("model.safetensors.index.json", index + "}}");
  }

  void WriteText(const std::string& name, const std::string& text) {
    std::ofstream(Path(name), std::ios::binary) << text;
  }
  std::string ReadText(const std::string& name) const {
    std::ifstream in(Path(name), std::ios::binary);
    return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  }

  std::map<std::string, Tensor> tensors;
  static constexpr const char* kShards[2] = {"model-00001-of-00002.safetensors",
                                             "model-00002-of-00002.safetensors"};

 private:
  void WriteShard(const std::string& name, const std::map<std::string, Tensor>& part) {
    std::vector<SafetensorsWriter::Tensor> specs;
    for (const auto& [tensor_name, tensor] : part)
      specs.push_back({tensor_name, tensor.dtype, tensor.shape});
    auto writer = SafetensorsWriter::Create(Path(name), specs);
    ASSERT_TRUE(writer.ok()) << writer.status();
    size_t i = 0;
    for (const auto& [tensor_name, tensor] : part) {
      ASSERT_TRUE((*writer)->Write(i++, 0, tensor.data).ok());
    }
    ASSERT_TRUE((*writer)->Finish().ok());
  }

  std::string folder_;
};

}  // namespace shoal
