// SPDX-License-Identifier: Apache-2.0
// Core's values <-> messages on a worker's stream. The core never sees protobuf; what a peer sends
// is checked here, so that only well-formed events reach it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/core/events.h"

namespace shoal {

namespace proto {
class AssignRank;
class ConnectFailed;
class ExpertTokens;
class LoadExperts;
class Status;
class StepDone;
class StepPlan;
}  // namespace proto

// Replaces `message` by `plan`.
void ToProto(const StepPlan& plan, proto::StepPlan& message);

// Replaces `message` by `command`; endpoints[r] is where rank r listens, empty if it is absent. A
// placement that the stream has named before is left out.
void ToProto(const AssignRank& command, const std::vector<std::string>& endpoints,
             bool placement_is_known, proto::AssignRank& message);

// Replaces `message` by `command`, the `serial`-th of its stream.
void ToProto(const LoadExperts& command, int64_t serial, proto::LoadExperts& message);

// An unknown code becomes kUnknown.
absl::Status FromProto(const proto::Status& message);

// As they stand, with no more ranks than any world has: the core checks ranks and shape.
ConnectFailed FromProto(const proto::ConnectFailed& message, WorkerId worker);
ExpertTokens FromProto(const proto::ExpertTokens& message, WorkerId worker);

// Errors: InvalidArgument naming the field when counts contradict each other or a number is out of
// its range.
absl::StatusOr<StepDone> FromProto(const proto::StepDone& message, WorkerId worker);

}  // namespace shoal
