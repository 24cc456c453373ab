// SPDX-License-Identifier: Apache-2.0
#include "comm/inprocess/inprocess_fabric.h"

#include <vector>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "comm/connect.h"
#include "engine/base/status_macros.h"

namespace shoal {

absl::StatusOr<std::unique_ptr<Fabric>> InprocessFabric::Make(const FabricOptions& options) {
  SHOAL_RETURN_IF_ERROR(Lane::Bytes(options.max_message_bytes).status());
  return absl::WrapUnique<Fabric>(new InprocessFabric(options, Hub::Of(options.cluster)));
}

InprocessFabric::InprocessFabric(const FabricOptions& options, std::shared_ptr<Hub> hub)
    : options_(options), hub_(std::move(hub)), endpoint_(hub_->Enter()) {}

InprocessFabric::~InprocessFabric() {
  exchange_.reset();
  hub_->Leave(endpoint_);
}

absl::StatusOr<Exchange*> InprocessFabric::Connect(Epoch epoch, RankId rank,
                                                   absl::Span<const std::string> endpoints,
                                                   absl::Time deadline) {
  SHOAL_ASSIGN_OR_RETURN(
      const Hello mine, BeginConnect(options_, endpoint_, exchange_.get(), epoch, rank, endpoints));
  const int world = mine.world;
  std::vector<Lane> in(world);
  std::vector<std::unique_ptr<Outlet>> out(world);
  for (int peer = 0; peer < world; ++peer) {
    if (peer == rank.value() || endpoints[peer].empty()) continue;
    SHOAL_ASSIGN_OR_RETURN(in[peer], Lane::Allocate(options_.max_message_bytes));
    hub_->Put(endpoint_, endpoints[peer], {mine, in[peer]});
  }
  for (int peer = 0; peer < world; ++peer) {
    if (peer == rank.value() || endpoints[peer].empty()) continue;
    absl::StatusOr<Hub::Offer> offer =
        hub_->Take(endpoints[peer], endpoint_, epoch, deadline, gate_);
    absl::Status status = offer.ok() ? JudgeHello(mine, offer->hello, endpoints) : offer.status();
    if (!status.ok()) return ConnectError(mine, endpoints, {RankId(peer)}, status);
    out[peer] = std::make_unique<LaneWriter>(std::move(offer->lane));
  }
  if (exchange_ == nullptr) {
    SHOAL_ASSIGN_OR_RETURN(exchange_,
                           LaneExchange::Make(rank, world, options_.max_message_bytes, carrier_));
  }
  SHOAL_RETURN_IF_ERROR(exchange_->Relink(epoch, std::move(in), std::move(out)));
  return exchange_.get();
}

void InprocessFabric::Abandon(Epoch next) {
  gate_.Close(next);
  hub_->Wake();
}

}  // namespace shoal
