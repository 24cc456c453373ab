// SPDX-License-Identifier: Apache-2.0
// Every present rank tells every other its hello and waits for theirs, over MPI and with a deadline.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "comm/connect_gate.h"
#include "comm/hello.h"
#include "comm/mpi/mpi_runtime.h"

namespace shoal {

class MpiGreeting {
 public:
  // Hellos travel with `tag`. `runtime` outlives the object.
  MpiGreeting(MpiRuntime& runtime, int tag) : runtime_(runtime), tag_(tag) {}

  // Rank r of the unit is MPI rank r. Errors as Fabric::Connect.
  absl::Status Greet(const Hello& mine, absl::Span<const std::string> endpoints,
                     absl::Time deadline, const ConnectGate& gate);

 private:
  void Send(const Hello& mine, absl::Span<const std::string> endpoints);
  // A hello of `peer` that has come; nullopt when there is none yet.
  absl::StatusOr<std::optional<Hello>> Receive(int peer, absl::Time deadline);
  absl::StatusOr<bool> HasGreeted(const Hello& mine, absl::Span<const std::string> endpoints,
                                  int peer, absl::Time deadline);

  MpiRuntime& runtime_;
  const int tag_;
  std::map<int, Hello> early_;  // by peer: of an epoch that we have not connected yet
};

}  // namespace shoal
