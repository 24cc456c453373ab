// SPDX-License-Identifier: Apache-2.0
// What a transport adds to lanes and outlets. This one adds nothing: the peers themselves write to
// the lanes and ring the doorbells, as in `inprocess` and `shm`.
#pragma once

#include <cstdint>

#include "absl/time/time.h"
#include "comm/doorbell.h"

namespace shoal {

// All calls in the engine's thread.
class Carrier {
 public:
  virtual ~Carrier() = default;

  // Received slots were given back, or an epoch was installed: what waits outside for a slot can be
  // delivered.
  virtual void RoomMade() {}

  // Passes time until something may have arrived or become free: after a ring of `bell` later than
  // `heard`, after `at_most`, or for no reason.
  virtual void Idle(Doorbell& bell, uint32_t heard, absl::Duration at_most) {
    bell.Sleep(heard, at_most);
  }
};

}  // namespace shoal
