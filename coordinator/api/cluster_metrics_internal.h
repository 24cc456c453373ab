// SPDX-License-Identifier: Apache-2.0
// The cluster's snapshot as Prometheus families.
#pragma once

#include <prometheus/metric_family.h>

#include <vector>

#include "coordinator/core/core.h"

namespace shoal {

// Every metric carries `labels`, beside those that say which rank or phase it is about.
std::vector<prometheus::MetricFamily> ClusterFamilies(
    const ClusterSnapshot& snapshot, int http_connections,
    const std::vector<prometheus::ClientMetric::Label>& labels);

}  // namespace shoal
