// SPDX-License-Identifier: Apache-2.0
#include "comm/faulty/faulty_fabric.h"

#include <utility>

#include "comm/faulty/faulty_exchange.h"
#include "engine/base/status_macros.h"

namespace shoal {
namespace {

class FaultyFabric final : public Fabric {
 public:
  FaultyFabric(std::unique_ptr<Fabric> fabric, FaultScript script)
      : script_(std::move(script)), fabric_(std::move(fabric)) {}

  absl::string_view transport() const override { return fabric_->transport(); }
  std::string endpoint() const override { return fabric_->endpoint(); }
  int fixed_rank() const override { return fabric_->fixed_rank(); }
  std::string EndpointOf(RankId rank) const override { return fabric_->EndpointOf(rank); }
  absl::StatusOr<Exchange*> Connect(Epoch epoch, RankId rank,
                                    absl::Span<const std::string> endpoints,
                                    absl::Time deadline) override {
    SHOAL_ASSIGN_OR_RETURN(Exchange * inner, fabric_->Connect(epoch, rank, endpoints, deadline));
    if (exchange_ == nullptr) exchange_ = std::make_unique<FaultyExchange>(*inner, script_);
    exchange_->Reconnected();
    return exchange_.get();
  }
  void Abandon(Epoch next) override { fabric_->Abandon(next); }

 private:
  const FaultScript script_;
  std::unique_ptr<Fabric> fabric_;
  std::unique_ptr<FaultyExchange> exchange_;
};

}  // namespace

std::unique_ptr<Fabric> MakeFaultyFabric(std::unique_ptr<Fabric> fabric, FaultScript script) {
  return std::make_unique<FaultyFabric>(std::move(fabric), std::move(script));
}

}  // namespace shoal
