// SPDX-License-Identifier: Apache-2.0
// Transport `shm`: the ranks are processes of one host. Every rank owns the memory it receives
// into; a sender writes rows straight into the receiver's, the one copy there is.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "comm/connect_gate.h"
#include "comm/fabric.h"
#include "comm/hello.h"
#include "comm/lane_exchange.h"
#include "comm/shm/link_watcher.h"
#include "comm/shm/shm_endpoint.h"
#include "comm/shm/unique_fd.h"

namespace shoal {

class ShmFabric final : public Fabric {
 public:
  static absl::StatusOr<std::unique_ptr<Fabric>> Make(const FabricOptions& options);
  ~ShmFabric() override;

  absl::string_view transport() const override { return "shm"; }
  std::string endpoint() const override { return here_.ToString(); }
  absl::StatusOr<Exchange*> Connect(Epoch epoch, RankId rank,
                                    absl::Span<const std::string> endpoints,
                                    absl::Time deadline) override;
  void Abandon(Epoch next) override;

 private:
  ShmFabric(const FabricOptions& options, ShmEndpoint here, UniqueFd listener, UniqueFd wake,
            UniqueFd abandoned);
  // Every present rank's endpoint, by rank. Errors: InvalidArgument; FailedPrecondition for one on
  // another host.
  // One on this host.
  absl::StatusOr<ShmEndpoint> ParsePeer(const std::string& endpoint) const;
  // Blames all that are none, or are on another host.
  absl::StatusOr<std::vector<ShmEndpoint>> ParsePeers(
      const Hello& mine, absl::Span<const std::string> endpoints) const;

  FabricOptions options_;
  ShmEndpoint here_;
  UniqueFd listener_;
  ConnectGate gate_;
  UniqueFd abandoned_;  // eventfd: the gate was closed
  Carrier carrier_;
  std::unique_ptr<LaneExchange> exchange_;
  LinkWatcher watcher_;  // calls exchange_
};

}  // namespace shoal
