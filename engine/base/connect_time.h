// SPDX-License-Identifier: Apache-2.0
// What worker and coordinator must agree upon without speaking of it: a worker that does not reach a
// peer of its epoch says so after this time; before that, the coordinator blames nobody.
#pragma once

#include <cstdint>

#include "absl/time/time.h"

namespace shoal {

// In a unit of so many ranks; peers may still have to finish the layer that they compute.
inline absl::Duration ConnectTime(int64_t world_size) {
  return absl::Seconds(3) + world_size * absl::Milliseconds(10);
}

}  // namespace shoal
