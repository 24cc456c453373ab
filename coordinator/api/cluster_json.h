// SPDX-License-Identifier: Apache-2.0
// The cluster's state for programs: the body of GET /cluster.
#pragma once

#include <string>

#include "coordinator/core/core.h"

namespace shoal {

// {"epoch", "serving", "workers": [{"rank", "pid", "host", "state", "experts", "blocks_used",
// "blocks_total", "running_sequences", "tokens_per_s"}, ...], "requests_running",
// "requests_waiting", ...}.
std::string ClusterJson(const ClusterSnapshot& snapshot);

}  // namespace shoal
