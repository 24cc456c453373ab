// SPDX-License-Identifier: Apache-2.0
// The door to transport `mpi`. Two files answer: mpi_fabric.cc, or no_mpi.cc in a build without
// MPI.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "comm/fabric.h"

namespace shoal {

// Errors: Unimplemented in a build without MPI.
absl::StatusOr<std::unique_ptr<Fabric>> MakeMpiFabric(const FabricOptions& options);

}  // namespace shoal
