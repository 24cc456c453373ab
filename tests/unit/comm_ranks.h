// SPDX-License-Identifier: Apache-2.0
// Runs one piece of test code as every rank of a unit. Two programs are made from the contract
// test: in one the ranks are threads (comm_ranks_threads.cc: transports inprocess, shm and grpc),
// in the other each process that mpirun started is one rank (comm_ranks_mpi.cc).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "comm/fabric.h"
#include "engine/parallel/exchange.h"

namespace shoal::comm_test {

// The transports this program can test, and the largest world it can make.
std::vector<std::string> Transports();
int LargestWorld();

// One rank, as the test code sees it.
struct Rank {
  int rank = 0;
  int world = 0;
  FabricOptions options;
  std::unique_ptr<Fabric> fabric;
  std::vector<std::string> endpoints;  // of all ranks
  std::function<void()> meet;          // waits until every rank is here

  // Connects; fails the test and returns null on error.
  Exchange* Connect(int64_t epoch, absl::Duration patience = absl::Seconds(30));
};

// Opens a fabric as each of `world` ranks, with options(rank), and runs `body` on all of them at
// once.
void RunRanks(int world, const std::function<FabricOptions(int rank)>& options,
              const std::function<void(Rank&)>& body);

// The usual case: the same options everywhere, and an Exchange connected in epoch 1.
void RunConnected(const std::string& transport, int world, size_t max_message_bytes,
                  const std::function<void(Rank&, Exchange&)>& body);
FabricOptions Options(const std::string& transport, size_t max_message_bytes);

// The content of a message, which both ends can compute: a size below `max` (often 0 or `max`) and
// bytes that depend on the seed, the tag, the source and the destination.
size_t MessageSize(uint64_t seed, const ExchangeTag& tag, int source, int destination, size_t max);
void FillMessage(uint64_t seed, const ExchangeTag& tag, int source, int destination,
                 absl::Span<std::byte> bytes);
// The first byte that differs from FillMessage, or -1.
int64_t FirstWrongByte(uint64_t seed, const ExchangeTag& tag, int source, int destination,
                       absl::Span<const std::byte> bytes);

ExchangeTag Tag(int64_t epoch, int64_t step, int layer,
                ExchangePhase phase = ExchangePhase::kDispatch);

// Sends a message of MessageSize to every present rank. Stops at the first error.
absl::Status SendAll(Exchange& exchange, const ExchangeTag& tag, uint64_t seed,
                     absl::Time deadline);
// Waits and compares every message; from an absent rank there must be none. Does not release.
absl::Status ReceiveAll(Exchange& exchange, const ExchangeTag& tag, uint64_t seed,
                        absl::Time deadline);

}  // namespace shoal::comm_test
