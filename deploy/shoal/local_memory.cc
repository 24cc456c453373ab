// SPDX-License-Identifier: Apache-2.0
#include "deploy/shoal/local_memory.h"

#include <memory>
#include <utility>
#include <vector>

#include "deploy/shoal/config.h"
#include "deploy/shoal/memory_ledger.h"
#include "engine/base/status_macros.h"
#include "engine/weights/checkpoint.h"

namespace shoal {

absl::Status CheckLocalMemory(const std::string& directory, const ModelConfig& config,
                              const ExpertPlacement& placement, const ModelOptions& options,
                              const std::string& backend) {
  SHOAL_ASSIGN_OR_RETURN(const auto checkpoint, Checkpoint::Open(directory));
  ShoalConfig sizes;
  sizes.backend = backend;
  sizes.block_tokens = options.block_tokens;
  sizes.max_batch_rows = static_cast<int>(options.max_batch_rows);
  sizes.max_running = static_cast<int>(options.max_logit_rows);
  std::vector<MemoryLedger> ledgers;
  for (int rank = 0; rank < placement.world_size(); ++rank) {
    SHOAL_ASSIGN_OR_RETURN(MemoryLedger ledger, WorkerMemory(sizes, config, *checkpoint, placement,
                                                             RankId(rank), options.cache_blocks));
    ledgers.push_back(std::move(ledger));
  }
  return CheckMemory(ledgers, AvailableMemory());
}

}  // namespace shoal
