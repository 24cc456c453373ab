// SPDX-License-Identifier: Apache-2.0
// Transport `inprocess`: the ranks are threads of one process. They find each other in a hub named
// after the cluster and hand each other lanes.
#pragma once

#include <memory>
#include <string>

#include "comm/fabric.h"
#include "comm/inprocess/hub.h"
#include "comm/lane_exchange.h"

namespace shoal {

class InprocessFabric final : public Fabric {
 public:
  static absl::StatusOr<std::unique_ptr<Fabric>> Make(const FabricOptions& options);
  ~InprocessFabric() override;

  absl::string_view transport() const override { return "inprocess"; }
  std::string endpoint() const override { return endpoint_; }
  absl::StatusOr<Exchange*> Connect(Epoch epoch, RankId rank,
                                    absl::Span<const std::string> endpoints,
                                    absl::Time deadline) override;
  void Abandon(Epoch next) override;

 private:
  InprocessFabric(const FabricOptions& options, std::shared_ptr<Hub> hub);

  FabricOptions options_;
  std::shared_ptr<Hub> hub_;  // shared by the fabrics of one cluster; the last one takes it away
  std::string endpoint_;
  ConnectGate gate_;
  Carrier carrier_;
  std::unique_ptr<LaneExchange> exchange_;
};

}  // namespace shoal
