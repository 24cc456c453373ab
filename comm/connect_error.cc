// SPDX-License-Identifier: Apache-2.0
#include "comm/connect_error.h"

#include "absl/strings/str_cat.h"

namespace shoal {

absl::Status ConnectError(Epoch epoch, RankId self, RankId peer, absl::string_view endpoint,
                          const absl::Status& why) {
  return absl::Status(
      why.code(), absl::StrCat("connecting epoch ", epoch.value(), ": rank ", self.value(),
                               " and rank ", peer.value(), " (", endpoint, "): ", why.message()));
}

absl::Status CheckSameUnit(const Exchange* exchange, RankId rank, int world) {
  if (exchange == nullptr || (exchange->rank() == rank && exchange->world_size() == world))
    return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "this exchange is rank ", exchange->rank().value(), " of ", exchange->world_size(),
      ": it cannot become rank ", rank.value(), " of ", world));
}

}  // namespace shoal
