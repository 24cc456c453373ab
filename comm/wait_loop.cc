// SPDX-License-Identifier: Apache-2.0
#include "comm/wait_loop.h"

#include <sched.h>

namespace shoal {

int SpinTurns(int world) {
  cpu_set_t cores;
  if (sched_getaffinity(0, sizeof(cores), &cores) != 0) return 0;
  // A turn is 15-60 ns by processor; 200 stay below the 20-60 us that a wake-up of an idle core
  // costs.
  return world <= CPU_COUNT(&cores) ? 200 : 0;
}

}  // namespace shoal
