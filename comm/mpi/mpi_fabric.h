// SPDX-License-Identifier: Apache-2.0
// Transport `mpi`: the ranks are those of one MPI job. MPI has no thread of ours: it moves on while
// we call it, so waiting is polling, first quickly and then with naps, and OpenMPI should
// be told to yield as well (mpi_yield_when_idle, see the README).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "comm/carrier.h"
#include "comm/connect_gate.h"
#include "comm/fabric.h"
#include "comm/hello.h"
#include "comm/lane_exchange.h"
#include "comm/mpi/mpi_greeting.h"
#include "comm/mpi/mpi_inlet.h"
#include "comm/mpi/mpi_runtime.h"

namespace shoal {

class MpiFabric final : public Fabric, private Carrier {
 public:
  static absl::StatusOr<std::unique_ptr<Fabric>> Make(const FabricOptions& options);
  ~MpiFabric() override;

  absl::string_view transport() const override { return "mpi"; }
  std::string endpoint() const override { return endpoint_; }
  int fixed_rank() const override { return runtime_.rank(); }
  std::string EndpointOf(RankId rank) const override;
  absl::StatusOr<Exchange*> Connect(Epoch epoch, RankId rank,
                                    absl::Span<const std::string> endpoints,
                                    absl::Time deadline) override;
  void Abandon(Epoch next) override { gate_.Close(next); }

 private:
  MpiFabric(const FabricOptions& options, MpiRuntime& runtime);
  absl::Status CheckRanks(const Hello& mine, absl::Span<const std::string> endpoints) const;
  // Moves every inlet on. Whether something had arrived.
  bool Progress();
  void RoomMade() override;
  void Idle(Doorbell& bell, uint32_t heard, absl::Duration at_most) override;

  FabricOptions options_;
  MpiRuntime& runtime_;
  const int first_tag_;
  std::string endpoint_;
  ConnectGate gate_;
  MpiGreeting greeting_;
  std::unique_ptr<LaneExchange> exchange_;
  std::vector<std::unique_ptr<MpiInlet>>
      inlets_;          // by rank; null for ourselves and after a failure
  int idle_turns_ = 0;  // since something arrived
  int spin_turns_ = 0;
};

}  // namespace shoal
