// SPDX-License-Identifier: Apache-2.0
// The core's state as an operator sees it.
#pragma once

#include "absl/time/time.h"
#include "coordinator/core/cluster_snapshot.h"
#include "coordinator/core/expert_token_counts.h"
#include "coordinator/core/membership.h"
#include "coordinator/core/recovery_log.h"
#include "coordinator/core/serving_state.h"
#include "coordinator/core/waiting_matrix.h"

namespace shoal {

ClusterSnapshot ViewCluster(const ServingState& state, const Membership& membership,
                            const RecoveryLog& log, const WaitingMatrix& waiting,
                            const ExpertTokenCounts& expert_tokens, absl::Time now);

}  // namespace shoal
