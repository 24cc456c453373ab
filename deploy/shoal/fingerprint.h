// SPDX-License-Identifier: Apache-2.0
// Which model a directory holds: equal fingerprints, equal config and weights.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "engine/weights/checkpoint.h"

namespace shoal {

// "8f14e45fceea167a-c9f0f895fb98ab91": of config.json; and of every tensor's name, dtype, shape and
// values: all bytes of a checkpoint up to 64 MiB, 1,024 samples of 4 KiB of a larger one. Two
// fine-tunes of one model differ nearly everywhere, so samples tell them apart; one flipped bit in
// a large checkpoint they may miss. Errors: those of ReadSmallFile.
absl::StatusOr<std::string> ModelFingerprint(const Checkpoint& checkpoint);

}  // namespace shoal
