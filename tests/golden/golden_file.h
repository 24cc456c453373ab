// SPDX-License-Identifier: Apache-2.0
// Reads golden.safetensors and measures how far results are from it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "engine/tensor/quant_tensor.h"
#include "engine/weights/safetensors.h"
#include "gtest/gtest.h"

namespace shoal {

inline std::string ModelsFolder() {
  return std::string(SHOAL_SOURCE_DIR) + "/tests/golden/models/";
}

class GoldenFile {
 public:
  explicit GoldenFile(const std::string& model) {
    auto file = SafetensorsFile::Open(ModelsFolder() + model + "/golden.safetensors");
    EXPECT_TRUE(file.ok()) << file.status();
    if (file.ok()) file_ = *std::move(file);
  }
  bool Has(const std::string& key) const { return file_->tensors().count(key) != 0; }
  std::vector<float> Floats(const std::string& key) const { return Read<float>(key, DType::kF32); }
  std::vector<int32_t> Ints(const std::string& key) const {
    return Read<int32_t>(key, DType::kI32);
  }

 private:
  template <typename T>
  std::vector<T> Read(const std::string& key, DType dtype) const {
    const auto it = file_->tensors().find(key);
    EXPECT_NE(it, file_->tensors().end()) << key;
    if (it == file_->tensors().end()) return {};
    EXPECT_EQ(it->second.dtype, dtype) << key;
    const auto bytes = file_->Data(it->second);
    std::vector<T> values(bytes.size() / sizeof(T));
    std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  }

  std::unique_ptr<SafetensorsFile> file_;
};

struct Distance {
  double max_abs = 0;
  double relative = 0;  // Frobenius norm of the difference over that of the golden
};

inline Distance Compare(const std::vector<float>& found, const std::vector<float>& golden) {
  EXPECT_EQ(found.size(), golden.size());
  Distance distance;
  double difference = 0;
  double norm = 0;
  for (size_t i = 0; i < golden.size() && i < found.size(); ++i) {
    const double d = double{found[i]} - golden[i];
    distance.max_abs = std::isnan(d) ? INFINITY : std::max(distance.max_abs, std::fabs(d));
    difference += d * d;
    norm += double{golden[i]} * golden[i];
  }
  distance.relative = std::sqrt(difference / norm);
  return distance;
}

}  // namespace shoal
