// SPDX-License-Identifier: Apache-2.0
// How hot each expert has been: rows routed to it since the coordinator started, as workers say.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "coordinator/core/events.h"

namespace shoal {

class ExpertTokenCounts {
 public:
  explicit ExpertTokenCounts(const std::vector<int>& n_routed_experts) {
    for (const int experts : n_routed_experts) layers_.emplace_back(experts, 0);
  }

  // Reports of another shape, or with numbers that cannot be, are ignored as a whole.
  void Add(const ExpertTokens& report) {
    if (!Fits(report)) return;
    for (size_t layer = 0; layer < layers_.size(); ++layer) {
      for (size_t expert = 0; expert < layers_[layer].size(); ++expert) {
        int64_t& sum = layers_[layer][expert];
        sum = std::min(sum + report.layers[layer][expert], kMost);
      }
    }
  }

  const std::vector<std::vector<int64_t>>& layers() const { return layers_; }  // [layer][expert]

 private:
  static constexpr int64_t kMost = int64_t{1} << 53;  // exact in JSON numbers

  bool Fits(const ExpertTokens& report) const {
    if (report.layers.size() != layers_.size()) return false;
    for (size_t layer = 0; layer < layers_.size(); ++layer) {
      const std::vector<int64_t>& tokens = report.layers[layer];
      if (tokens.size() != layers_[layer].size()) return false;
      for (const int64_t count : tokens) {
        if (count < 0 || count > kMost) return false;
      }
    }
    return true;
  }

  std::vector<std::vector<int64_t>> layers_;
};

}  // namespace shoal
