// SPDX-License-Identifier: Apache-2.0
// What the coordinator is told of how hot experts are: rows routed since it was last told.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/model/model.h"

namespace shoal {

namespace proto {
class ExpertTokens;
}  // namespace proto

class ExpertTokenReport {
 public:
  // Another model counts from zero.
  void Reset() { reported_.clear(); }
  // Adds to `message` what `model` has counted since the last time. False if that is nothing.
  bool Take(const Model& model, proto::ExpertTokens& message);

 private:
  std::vector<int64_t> reported_;  // Model::expert_tokens then
};

}  // namespace shoal
