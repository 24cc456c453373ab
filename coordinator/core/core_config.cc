// SPDX-License-Identifier: Apache-2.0
// Which configurations the core can work with.
#include <cstdint>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "coordinator/core/core.h"
#include "coordinator/core/expert_planner.h"

namespace shoal {

absl::Status Validate(const CoreConfig& config) {
  const auto at_least = [](const char* name, int64_t value, int64_t least) {
    return value >= least ? absl::OkStatus()
                          : absl::InvalidArgumentError(
                                absl::StrCat(name, " is ", value, ", must be at least ", least));
  };
  for (const absl::Status& status :
       {at_least("workers", config.workers, 1), at_least("block_tokens", config.block_tokens, 1),
        at_least("max_context", config.max_context, 1),
        at_least("max_batch_rows", config.max_batch_rows, 1),
        at_least("max_running_sequences", config.max_running_sequences, 1),
        at_least("max_queued_requests", config.max_queued_requests, 1),
        at_least("holders", config.holders, 1), at_least("n_group", config.n_group, 1),
        at_least("redundant_experts", config.redundant_experts, 0)}) {
    if (!status.ok()) return status;
  }
  if (config.max_context > std::numeric_limits<int32_t>::max() / 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_context is ", config.max_context, ", positions have 31 bits"));
  }
  for (const absl::Duration timeout :
       {config.step_timeout, config.heartbeat_timeout, config.loading_timeout}) {
    if (timeout <= absl::ZeroDuration()) {
      return absl::InvalidArgumentError("step, heartbeat and loading timeouts must be positive");
    }
  }
  if (config.holders > config.workers) {
    return absl::InvalidArgumentError(absl::StrCat("holders is ", config.holders, ", with ",
                                                   config.workers, " workers it can be at most that"));
  }
  if (!config.expert_load.empty()) {
    const absl::Status fits = CheckExpertLoad(config.expert_load, config.n_routed_experts);
    if (!fits.ok()) return fits;
  }
  if (config.placement == nullptr) {
    if (config.holders > 1 || config.redundant_experts > 0 || !config.expert_load.empty()) {
      return CheckCopies(config.n_routed_experts, config.workers, config.holders,
                         config.redundant_experts);
    }
    return ExpertPlacement::Contiguous(config.workers, config.n_routed_experts).status();
  }
  if (config.holders > 1 || config.redundant_experts > 0 || !config.expert_load.empty()) {
    return absl::InvalidArgumentError(
        "a placement says by itself who holds what: holders, redundant_experts and expert_load go "
        "without one");
  }
  return config.placement->CheckFits(config.workers, config.n_routed_experts);
}

}  // namespace shoal
