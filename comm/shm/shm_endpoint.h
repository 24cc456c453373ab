// SPDX-License-Identifier: Apache-2.0
// Where an `shm` rank is found: "shm:<host>:<socket>". The host part tells hosts and network
// namespaces apart, for local sockets reach no further; the socket part is an abstract socket name.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace shoal {

struct ShmEndpoint {
  std::string host;
  std::string socket;

  std::string ToString() const;
  // Errors: InvalidArgument.
  static absl::StatusOr<ShmEndpoint> Parse(absl::string_view text);
  // This host, and a socket name that names the cluster and is used by nobody else.
  static absl::StatusOr<ShmEndpoint> MakeHere(absl::string_view cluster);
};

}  // namespace shoal
