// SPDX-License-Identifier: Apache-2.0
// Host memory of the mixture layers, one set for all of them, sized at start so that a step
// allocates nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#include "absl/types/span.h"
#include "engine/device/kernels.h"
#include "engine/model/expert_rows.h"
#include "engine/parallel/expert_messages.h"

namespace shoal {

struct ExpertScratch {
  ExpertScratch(int world_size, int64_t max_rows, int max_experts, int max_slots, int layers)
      : max_experts(max_experts),
        expert_tokens(int64_t{layers} * max_experts),
        rows(world_size, max_rows, max_experts, max_slots),
        message_bytes(world_size),
        received(world_size),
        messages(world_size),
        replies(world_size),
        result_rows(max_rows * max_slots),
        in_order(max_rows) {
    batch_experts.reserve(max_experts);
    batch_offsets.reserve(max_experts + 1);
    std::iota(in_order.begin(), in_order.end(), 0);
  }

  const int max_experts;
  std::vector<int64_t> expert_tokens;  // [layers, max_experts], Model::expert_tokens
  ExpertRows rows;

  std::vector<size_t> message_bytes;                  // by rank
  std::vector<absl::Span<const std::byte>> received;  // by rank
  std::vector<DispatchMessage> messages;              // by rank
  std::vector<std::byte*> replies;                    // by rank: where its next row goes
  std::vector<const FfnWeights*> batch_experts;       // of one grouped FFN
  std::vector<int32_t> batch_offsets;
  std::vector<const void*> result_rows;  // [T * K]
  std::vector<int32_t> in_order;         // 0, 1, 2, ...
};

}  // namespace shoal
