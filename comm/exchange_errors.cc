// SPDX-License-Identifier: Apache-2.0
#include "comm/exchange_errors.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/parallel/blamed_peers.h"

namespace shoal {

absl::Status TimeoutError(const ExchangeTag& tag, RankId self,
                          absl::Span<const MissingPeer> missing) {
  const auto rank = [](std::string* out, const MissingPeer& peer) {
    absl::StrAppend(out, peer.rank.value());
  };
  const auto bytes = [](std::string* out, const MissingPeer& peer) {
    absl::StrAppend(out, peer.bytes_outstanding);
  };
  return WaitEnded(absl::DeadlineExceededError(absl::StrCat(
                       tag.ToString(), ": rank ", self.value(), " waits for rank",
                       missing.size() == 1 ? " " : "s ", absl::StrJoin(missing, ", ", rank),
                       " (bytes outstanding ", absl::StrJoin(missing, ", ", bytes), ")")),
                   missing);
}

absl::Status WaitEnded(const absl::Status& why, absl::Span<const MissingPeer> missing) {
  if (!BlamedPeers(why).empty()) return why;
  absl::InlinedVector<RankId, 16> peers;
  for (const MissingPeer& peer : missing) peers.push_back(peer.rank);
  return BlamePeers(why, peers);
}

absl::Status BackPressureError(const ExchangeTag& tag, RankId self, MissingPeer peer) {
  return BlamePeers(
      absl::DeadlineExceededError(absl::StrCat(
          tag.ToString(), ": rank ", self.value(), " waits for rank ", peer.rank.value(),
          " to release a buffer (bytes outstanding ", peer.bytes_outstanding, ")")),
      {peer.rank});
}

absl::Status GoneError(const ExchangeTag& tag, RankId self, RankId peer, absl::string_view how) {
  return InExchange(
      tag, self,
      BlamePeers(absl::UnavailableError(absl::StrCat("rank ", peer.value(), " ", how)), {peer}));
}

absl::Status InExchange(const ExchangeTag& tag, RankId self, const absl::Status& status) {
  return Reworded(status,
                  absl::StrCat(tag.ToString(), ": rank ", self.value(), ": ", status.message()));
}

absl::Status EpochError(const ExchangeTag& tag, RankId self, Epoch current,
                        absl::string_view where) {
  return absl::AbortedError(absl::StrCat(tag.ToString(), ": rank ", self.value(), ": ", where,
                                         " is in epoch ", current.value()));
}

}  // namespace shoal
