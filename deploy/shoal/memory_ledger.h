// SPDX-License-Identifier: Apache-2.0
// What a worker will occupy, line by line, computed before anything is loaded; and what the machine
// has.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "deploy/shoal/config.h"
#include "engine/config/expert_placement.h"
#include "engine/config/model_config.h"
#include "engine/weights/checkpoint.h"

namespace shoal {

struct MemoryLedger {
  std::vector<std::pair<std::string, int64_t>> lines;  // what, bytes
  int64_t total() const;
  // A table for people: a line each, then the sum.
  std::string ToString() const;
};

// What `rank` occupies with `cache_blocks` blocks. Weights are counted in the checkpoint's own
// dtypes (in f32 for the reference backend), activations and exchange buffers are estimates.
absl::StatusOr<MemoryLedger> WorkerMemory(const ShoalConfig& config, const ModelConfig& model,
                                          const Checkpoint& checkpoint,
                                          const ExpertPlacement& placement, RankId rank,
                                          int64_t cache_blocks);

// Bytes of one cache block of one worker.
int64_t CacheBlockBytes(const ShoalConfig& config, const ModelConfig& model);

// Blocks per worker that the configuration asks for: --cache-blocks, --cache-memory, or by default
// room for max_running full contexts, at most half of what `free_bytes` (for each worker) leaves
// beside `other_bytes`. Errors: InvalidArgument when --cache-memory does not hold one block.
absl::StatusOr<int64_t> CacheBlocks(const ShoalConfig& config, const ModelConfig& model,
                                    int64_t free_bytes, int64_t other_bytes);

// What this process may still take: MemAvailable of the machine, or what its control groups leave
// if that is less.
int64_t AvailableMemory();

// Errors: ResourceExhausted with the ledger when `ledgers` together exceed `available` bytes.
absl::Status CheckMemory(const std::vector<MemoryLedger>& ledgers, int64_t available);

}  // namespace shoal
