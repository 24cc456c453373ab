// SPDX-License-Identifier: Apache-2.0
#include "comm/mpi/make_mpi_fabric.h"

namespace shoal {

absl::StatusOr<std::unique_ptr<Fabric>> MakeMpiFabric(const FabricOptions&) {
  return absl::UnimplementedError(
      "transport mpi: this build has no MPI; install OpenMPI and configure with -DSHOAL_MPI=ON");
}

}  // namespace shoal
