// SPDX-License-Identifier: Apache-2.0
// From the configuration to what a Worker takes: for a process of its own, and for a thread of
// `shoal serve`.
#pragma once

#include <cstdint>
#include <string>

#include "deploy/shoal/config.h"
#include "engine/config/model_config.h"
#include "worker/worker.h"

namespace shoal {

// `cache_blocks`: see CacheBlocks(). config.coordinator is set, config.threads is not 0.
WorkerOptions MakeWorkerOptions(const ShoalConfig& config, const ModelConfig& model,
                                const std::string& fingerprint, int64_t cache_blocks);

}  // namespace shoal
