// SPDX-License-Identifier: Apache-2.0
// What every fabric says when connecting fails, and the check that a fabric is connected as the
// same rank each time.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "engine/base/ids.h"
#include "engine/parallel/exchange.h"

namespace shoal {

// `why` behind "connecting epoch 3: rank 2 and rank 1 (endpoint): ", with its code.
absl::Status ConnectError(Epoch epoch, RankId self, RankId peer, absl::string_view endpoint,
                          const absl::Status& why);

// Errors: InvalidArgument when `exchange` was made for another rank or world. Null: nothing was
// made yet.
absl::Status CheckSameUnit(const Exchange* exchange, RankId rank, int world);

}  // namespace shoal
