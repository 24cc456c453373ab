// SPDX-License-Identifier: Apache-2.0
#include "comm/connect.h"

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/parallel/blamed_peers.h"

namespace shoal {
namespace {

constexpr size_t kMaxWorld = 4096;

absl::Status CheckRoster(Epoch epoch, RankId rank, absl::Span<const std::string> endpoints,
                         absl::string_view own_endpoint) {
  if (epoch.value() < 1)
    return absl::InvalidArgumentError(absl::StrCat("epoch ", epoch.value(), ": want 1 or more"));
  if (endpoints.empty() || endpoints.size() > kMaxWorld) {
    return absl::InvalidArgumentError(
        absl::StrCat("a world of ", endpoints.size(), " ranks: want 1 to ", kMaxWorld));
  }
  if (rank.value() < 0 || static_cast<size_t>(rank.value()) >= endpoints.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("rank ", rank.value(), " in a world of ", endpoints.size()));
  }
  if (own_endpoint.empty() || endpoints[rank.value()] != own_endpoint) {
    return absl::InvalidArgumentError(absl::StrCat("endpoint of rank ", rank.value(),
                                                   ": the roster says ", endpoints[rank.value()],
                                                   ", this rank is ", own_endpoint));
  }
  return absl::OkStatus();
}

absl::Status CheckSameUnit(const LaneExchange* exchange, RankId rank, int world) {
  if (exchange == nullptr || (exchange->rank() == rank && exchange->world_size() == world))
    return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "this exchange is rank ", exchange->rank().value(), " of ", exchange->world_size(),
      ": it cannot become rank ", rank.value(), " of ", world));
}

}  // namespace

absl::StatusOr<Hello> BeginConnect(const FabricOptions& options, absl::string_view own_endpoint,
                                   const LaneExchange* exchange, Epoch epoch, RankId rank,
                                   absl::Span<const std::string> endpoints) {
  SHOAL_RETURN_IF_ERROR(CheckRoster(epoch, rank, endpoints, own_endpoint));
  const int world = static_cast<int>(endpoints.size());
  SHOAL_RETURN_IF_ERROR(CheckSameUnit(exchange, rank, world));
  if (exchange != nullptr) SHOAL_RETURN_IF_ERROR(exchange->CheckEpoch(epoch));
  return Hello{.cluster = options.cluster,
               .epoch = epoch,
               .rank = rank,
               .world = world,
               .max_message_bytes = options.max_message_bytes,
               .endpoint = std::string(own_endpoint)};
}

absl::Status ConnectError(const Hello& mine, absl::Span<const std::string> endpoints,
                          absl::Span<const RankId> peers, const absl::Status& why) {
  const int first = peers.front().value();
  std::string others;
  if (peers.size() > 1) others = absl::StrCat(" (so have ", peers.size() - 1, " others)");
  return BlamePeers(
      absl::Status(why.code(), absl::StrCat("connecting epoch ", mine.epoch.value(), ": rank ",
                                            mine.rank.value(), " and rank ", first, " (",
                                            endpoints[first], "): ", why.message(), others)),
      peers);
}

}  // namespace shoal
