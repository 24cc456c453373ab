// SPDX-License-Identifier: Apache-2.0
// Which model a directory holds. Another fingerprint is another model; the same one means the same
// config and the same weights, those of experts and of large tables as far as samples show.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "engine/weights/checkpoint.h"

namespace shoal {

// "8f14e45fceea167a-c9f0f895fb98ab91": of config.json; and of every tensor's name, dtype, shape and
// values. All bytes of a checkpoint up to 64 MiB. Of a larger one: all bytes of every tensor up to
// 8 MiB that is no routed expert's (norms, routers, biases, scales; in DeepSeek-V3 as released 928
// of 1,367, 0.5 GB to read); and of the rest samples of 4 KiB, 1,024 evenly spread over the
// checkpoint and one from the middle of each tensor that is no routed expert's. Two fine-tunes of
// one model differ nearly everywhere, so samples tell them apart; one flipped bit in an expert or a
// large table they may miss. Reads files, and touches no page of their mappings. Errors: those of
// ReadSmallFile and SafetensorsFile::Read.
absl::StatusOr<std::string> ModelFingerprint(const Checkpoint& checkpoint);

}  // namespace shoal
