// SPDX-License-Identifier: Apache-2.0
#include "engine/model/expert_rows.h"

#include <algorithm>
#include <limits>

namespace shoal {

ExpertRows::ExpertRows(int world_size, int64_t max_rows, int max_experts, int max_slots)
    : outgoing_(world_size), cursors_(world_size) {
  const int64_t pairs = max_rows * max_slots;
  for (Outgoing& outgoing : outgoing_) {
    outgoing.rows.reserve(max_rows);
    outgoing.pairs.reserve(pairs);
  }
  runs_.reserve(std::min<int64_t>(int64_t{world_size} * max_experts, world_size * pairs));
  indices_.reserve(world_size * pairs);
}

void ExpertRows::PlanDispatch(const ExpertTargets& targets, int layer,
                              absl::Span<const int32_t> experts, int slots) {
  for (Outgoing& outgoing : outgoing_) {
    outgoing.rows.clear();
    outgoing.pairs.clear();
  }
  const int32_t rows = static_cast<int32_t>(experts.size()) / slots;
  for (int32_t row = 0; row < rows; ++row) {
    for (int slot = 0; slot < slots; ++slot) {
      const int32_t expert = experts[row * slots + slot];
      Outgoing& to = outgoing_[targets.Of(layer, ExpertId(expert)).value()];
      if (to.rows.empty() || to.rows.back() != row) to.rows.push_back(row);
      to.pairs.push_back({static_cast<uint32_t>(to.rows.size() - 1), static_cast<uint16_t>(expert),
                          static_cast<uint16_t>(slot)});
    }
  }
  for (Outgoing& outgoing : outgoing_) {
    std::sort(outgoing.pairs.begin(), outgoing.pairs.end(),
              [](const ExpertPair& a, const ExpertPair& b) {
                return a.expert != b.expert ? a.expert < b.expert : a.row < b.row;
              });
  }
}

void ExpertRows::PlanCompute(absl::Span<const DispatchMessage> messages) {
  runs_.clear();
  indices_.clear();
  std::fill(cursors_.begin(), cursors_.end(), 0);
  while (true) {
    // The lowest expert that any source still has pairs for: pairs ascend by expert in each
    // message.
    int32_t expert = std::numeric_limits<int32_t>::max();
    for (size_t source = 0; source < messages.size(); ++source) {
      const auto pairs = messages[source].pairs;
      if (static_cast<size_t>(cursors_[source]) < pairs.size()) {
        expert = std::min<int32_t>(expert, pairs[cursors_[source]].expert);
      }
    }
    if (expert == std::numeric_limits<int32_t>::max()) return;
    for (size_t source = 0; source < messages.size(); ++source) {
      const auto pairs = messages[source].pairs;
      int32_t& cursor = cursors_[source];
      Run run = {.expert = expert,
                 .source = static_cast<int32_t>(source),
                 .first_pair = cursor,
                 .first_index = static_cast<int32_t>(indices_.size())};
      while (static_cast<size_t>(cursor) < pairs.size() && pairs[cursor].expert == expert) {
        indices_.push_back(static_cast<int32_t>(pairs[cursor++].row));
      }
      run.count = cursor - run.first_pair;
      if (run.count > 0) runs_.push_back(run);
    }
  }
}

}  // namespace shoal
