// SPDX-License-Identifier: Apache-2.0
#include "comm/fabric.h"

#include "absl/strings/str_cat.h"
#include "comm/grpc/grpc_fabric.h"
#include "comm/inprocess/inprocess_fabric.h"
#include "comm/mpi/make_mpi_fabric.h"
#include "comm/shm/shm_fabric.h"

namespace shoal {

absl::StatusOr<std::unique_ptr<Fabric>> Fabric::Create(const FabricOptions& options) {
  if (options.transport == "inprocess") return InprocessFabric::Make(options);
  if (options.transport == "shm") return ShmFabric::Make(options);
  if (options.transport == "grpc") return GrpcFabric::Make(options);
  if (options.transport == "mpi") return MakeMpiFabric(options);
  return absl::InvalidArgumentError(
      absl::StrCat("transport \"", options.transport, "\": want inprocess, shm, grpc or mpi"));
}

}  // namespace shoal
