// SPDX-License-Identifier: Apache-2.0
// What every fabric's Connect begins with, and what it says when it fails.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "comm/fabric.h"
#include "comm/hello.h"
#include "comm/lane_exchange.h"
#include "engine/base/ids.h"

namespace shoal {

// Checks Fabric::Connect's arguments; returns what the rank says of itself to its peers. `exchange`
// is what the fabric connected before, if anything. Errors: InvalidArgument for a roster that
// cannot be, or one that makes another rank of this fabric; FailedPrecondition for an epoch that
// does not follow.
absl::StatusOr<Hello> BeginConnect(const FabricOptions& options, absl::string_view own_endpoint,
                                   const LaneExchange* exchange, Epoch epoch, RankId rank,
                                   absl::Span<const std::string> endpoints);

// `why` behind "connecting epoch 3: rank 2 and rank 1 (endpoint): ", with its code: of the first of
// `peers`, which is not empty, and with the number of the others. It blames all of them.
absl::Status ConnectError(const Hello& mine, absl::Span<const std::string> endpoints,
                          absl::Span<const RankId> peers, const absl::Status& why);

}  // namespace shoal
