// SPDX-License-Identifier: Apache-2.0
// Where a rank listens for its peers, in the words of its transport. Worker and coordinator must
// agree upon them: what no peer could dial the coordinator refuses before anybody tries.
#pragma once

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace shoal {

// Views the endpoint it was read from.
struct ShmAddress {
  absl::string_view host;    // tells hosts and network namespaces apart
  absl::string_view socket;  // an abstract socket's name
};

// Of "grpc:<host>:<port>", or "grpc:[<v6>]:<port>", what stands behind "grpc:". Errors:
// InvalidArgument.
absl::StatusOr<absl::string_view> GrpcAddress(absl::string_view endpoint);
// Of "shm:<host>:<socket>". Errors: InvalidArgument.
absl::StatusOr<ShmAddress> ParseShmEndpoint(absl::string_view endpoint);

// Whether `endpoint` could be one of `transport`; of a transport unknown here, only its length is
// looked at. Errors: InvalidArgument.
absl::Status CheckEndpoint(absl::string_view transport, absl::string_view endpoint);

}  // namespace shoal
