// SPDX-License-Identifier: Apache-2.0
// A lane in memory that another process can map. It is a memfd: it has no name in any file system,
// so nothing can leak, whatever kills us, and the 64 MB of a container's /dev/shm do not bound it.
// It is sealed against resizing, so a peer cannot make us fault by truncating it.
#pragma once

#include "absl/status/statusor.h"
#include "comm/lane.h"
#include "comm/shm/unique_fd.h"

namespace shoal {

struct Segment {
  UniqueFd fd;
  Lane lane;
};

// A new lane; pages are taken as they are touched. Errors: ResourceExhausted, InvalidArgument for
// an absurd size.
absl::StatusOr<Segment> CreateSegment(size_t max_message_bytes);

// Maps a lane made by CreateSegment in another process. Errors: DataLoss when `fd` is not a sealed
// lane of that size; ResourceExhausted.
absl::StatusOr<Lane> MapSegment(const UniqueFd& fd, size_t max_message_bytes);

}  // namespace shoal
