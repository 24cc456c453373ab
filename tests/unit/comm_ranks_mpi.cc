// SPDX-License-Identifier: Apache-2.0
// This process is one rank of the job that mpirun started. All processes run the same tests in the
// same order; in a test of a smaller world the higher ranks only lend their endpoints.
#include <mpi.h>

#include <cstring>
#include <vector>

#include "absl/time/clock.h"
#include "comm/mpi/mpi_runtime.h"
#include "gtest/gtest.h"
#include "tests/unit/comm_ranks.h"

namespace shoal::comm_test {
namespace {

void Meet(MPI_Comm comm) {
  MPI_Request barrier = MPI_REQUEST_NULL;
  MPI_Ibarrier(comm, &barrier);
  const absl::Time deadline = absl::Now() + absl::Seconds(60);
  int here = 0;
  while (here == 0 && absl::Now() < deadline) {
    MPI_Test(&barrier, &here, MPI_STATUS_IGNORE);
    if (here == 0) absl::SleepFor(absl::Microseconds(100));
  }
  if (here == 0) ADD_FAILURE() << "not all ranks met";
}

std::vector<std::string> Gather(const std::string& endpoint, int size) {
  constexpr int kLength = 256;
  char mine[kLength] = {};
  std::strncpy(mine, endpoint.c_str(), kLength - 1);
  std::vector<char> all(static_cast<size_t>(kLength) * size);
  MPI_Allgather(mine, kLength, MPI_CHAR, all.data(), kLength, MPI_CHAR, MPI_COMM_WORLD);
  std::vector<std::string> endpoints;
  for (int rank = 0; rank < size; ++rank) endpoints.emplace_back(&all[rank * kLength]);
  return endpoints;
}

}  // namespace

std::vector<std::string> Transports() { return {"mpi"}; }

int LargestWorld() {
  absl::StatusOr<MpiRuntime*> runtime = MpiRuntime::Get();
  return runtime.ok() ? (*runtime)->size() : 0;
}

void RunRanks(int world, const std::function<FabricOptions(int rank)>& options,
              const std::function<void(Rank&)>& body) {
  absl::StatusOr<MpiRuntime*> runtime = MpiRuntime::Get();
  ASSERT_TRUE(runtime.ok()) << runtime.status();
  ASSERT_GE((*runtime)->size(), world) << "start this program with mpirun -n 4";
  Rank me;
  me.rank = (*runtime)->rank();
  me.world = world;
  me.options = options(me.rank);
  absl::StatusOr<std::unique_ptr<Fabric>> fabric = Fabric::Create(me.options);
  ASSERT_TRUE(fabric.ok()) << fabric.status();
  me.fabric = *std::move(fabric);
  EXPECT_EQ(me.fabric->fixed_rank(), me.rank);
  me.endpoints = Gather(me.fabric->endpoint(), (*runtime)->size());
  me.endpoints.resize(world);
  MPI_Comm members = MPI_COMM_NULL;
  MPI_Comm_split(MPI_COMM_WORLD, me.rank < world ? 0 : MPI_UNDEFINED, me.rank, &members);
  if (me.rank >= world) return;
  me.meet = [members] { Meet(members); };
  body(me);
  me.fabric.reset();
  MPI_Comm_free(&members);
}

}  // namespace shoal::comm_test
