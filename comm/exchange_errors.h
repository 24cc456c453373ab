// SPDX-License-Identifier: Apache-2.0
// What every transport says when an exchange fails: always the exchange (epoch, step, layer, phase)
// and the rank that speaks, and for a timeout which peers are missing and how many of our bytes
// they have not taken. Whom an error is about BlamedPeers tells.
#pragma once

#include <cstddef>

#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "engine/base/ids.h"
#include "engine/parallel/exchange.h"

namespace shoal {

struct MissingPeer {
  RankId rank;
  size_t bytes_outstanding = 0;  // posted to it in this phase and not known to be taken
};
using MissingPeers = absl::InlinedVector<MissingPeer, 16>;

// DeadlineExceeded "epoch 3 step 118 layer 5 dispatch: rank 2 waits for ranks 1, 3 (bytes
// outstanding 4096, 0)". Blames them.
absl::Status TimeoutError(const ExchangeTag& tag, RankId self,
                          absl::Span<const MissingPeer> missing);

// `why` a wait ended before that; about the peers that were missing then, if it is about none.
absl::Status WaitEnded(const absl::Status& why, absl::Span<const MissingPeer> missing);

// DeadlineExceeded "...: rank 2 waits for rank 1 to release a buffer (bytes outstanding 8192)".
// Blames it.
absl::Status BackPressureError(const ExchangeTag& tag, RankId self, MissingPeer peer);

// Unavailable "...: rank 2: rank 1 has left"; `how`: "has left". Blames it.
absl::Status GoneError(const ExchangeTag& tag, RankId self, RankId peer, absl::string_view how);

// `status` with the exchange and the speaker in front of its message; whom it blames stays.
absl::Status InExchange(const ExchangeTag& tag, RankId self, const absl::Status& status);

// Aborted: `tag` is of another epoch than `current`, the one installed here or at a peer.
absl::Status EpochError(const ExchangeTag& tag, RankId self, Epoch current,
                        absl::string_view where);

}  // namespace shoal
