// SPDX-License-Identifier: Apache-2.0
// Which epoch may follow which: only a later one. The same one again is accepted while nothing was
// exchanged in it, so that Connect (which installs its epoch) and an explicit InstallEpoch of the
// same do not quarrel.
#pragma once

#include "absl/status/status.h"
#include "engine/base/ids.h"

namespace shoal {

// Errors: FailedPrecondition naming both epochs.
absl::Status CheckEpochFollows(Epoch next, Epoch current, bool current_used);

}  // namespace shoal
