// SPDX-License-Identifier: Apache-2.0
// Whom an error of an exchange is about, for programs to read: ranks in a payload of the status,
// set where the error is made and kept by who adds to its message on the way up. Nothing here is
// called, or allocates, while all is well.
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "engine/base/ids.h"
#include "engine/parallel/exchange.h"

namespace shoal {

// `status`, an error, as one about `peers`; whom it was about before is forgotten.
absl::Status BlamePeers(absl::Status status, absl::Span<const RankId> peers);
// The peers of such an error; of any other one, none.
std::vector<RankId> BlamedPeers(const absl::Status& status);

// `status` with another message; its code and its payloads stay.
absl::Status Reworded(const absl::Status& status, absl::string_view message);

// What is wrong with the message of `source` that `self` got in an exchange, as an error about
// that rank: "epoch 3 step 118 layer 5 dispatch: rank 2: from rank 1: ...".
absl::Status BadMessage(const ExchangeTag& tag, RankId self, RankId source,
                        const absl::Status& status);

}  // namespace shoal
