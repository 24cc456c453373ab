// SPDX-License-Identifier: Apache-2.0
#include "engine/parallel/blamed_peers.h"

#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/types/optional.h"

namespace shoal {
namespace {

constexpr absl::string_view kPayload = "shoal.BlamedPeers";

void AppendRank(std::string* out, RankId rank) { absl::StrAppend(out, rank.value()); }

}  // namespace

absl::Status BlamePeers(absl::Status status, absl::Span<const RankId> peers) {
  status.ErasePayload(kPayload);
  if (!peers.empty())
    status.SetPayload(kPayload, absl::Cord(absl::StrJoin(peers, ",", AppendRank)));
  return status;
}

std::vector<RankId> BlamedPeers(const absl::Status& status) {
  std::vector<RankId> peers;
  const absl::optional<absl::Cord> payload = status.GetPayload(kPayload);
  if (!payload.has_value()) return peers;
  const std::string text(*payload);
  for (const absl::string_view number : absl::StrSplit(text, ',')) {
    int rank = 0;
    if (absl::SimpleAtoi(number, &rank)) peers.push_back(RankId(rank));
  }
  return peers;
}

absl::Status Reworded(const absl::Status& status, absl::string_view message) {
  absl::Status reworded(status.code(), message);
  status.ForEachPayload([&](absl::string_view type, const absl::Cord& payload) {
    reworded.SetPayload(type, payload);
  });
  return reworded;
}

absl::Status BadMessage(const ExchangeTag& tag, RankId self, RankId source,
                        const absl::Status& status) {
  return BlamePeers(
      Reworded(status, absl::StrCat(tag.ToString(), ": rank ", self.value(), ": from rank ",
                                    source.value(), ": ", status.message())),
      {source});
}

}  // namespace shoal
