// SPDX-License-Identifier: Apache-2.0
// The cluster's state for programs: the bodies of GET /cluster and below.
#pragma once

#include <string>

#include "coordinator/core/core.h"

namespace shoal {

// {"epoch", "serving", "workers": [{"rank", "pid", "host", "state", "experts", "blocks_used",
// "blocks_total", "running_sequences", "tokens_per_s"}, ...], "requests_running",
// "requests_waiting", ...}.
std::string ClusterJson(const ClusterSnapshot& snapshot);

// How many rows were routed to each expert since the start, [layer][expert], as --expert-load wants
// it: {"load": [[], [120, 80, ...], ...]}. The body of GET /cluster/expert_load.
std::string ExpertLoadJson(const ClusterSnapshot& snapshot);

}  // namespace shoal
