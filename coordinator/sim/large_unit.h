// SPDX-License-Identifier: Apache-2.0
// One death in a unit of up to thousands of simulated workers: what re-planning costs the coordinator, and
// how long the others stand still. Times of the network and of devices are assumptions, stated in the
// options; the CPU time of the core is measured.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace shoal::sim {

struct LargeUnitOptions {
  int workers = 1024;
  int holders = 2;
  int experts = 256;
  int moe_layers = 1;
  int slots_per_worker = 2;         // experts that each worker holds in a layer, if that is enough
  double skew = 0;                  // of the routing
  double gbit_per_s = 0;            // of each worker; 0: no congestion
  int sequences_per_worker = 2;     // that decode when the worker dies
  uint64_t seed = 1;
};

struct LargeUnitResult {
  absl::Duration decide_cpu;  // of the core: from the news to the new epoch's assignments
  absl::Duration resume_cpu;  // of the core: all members' readiness, to the plans of the first step
  absl::Duration link_cpu;    // writing the assignments as messages, which the core's thread does too
  absl::Duration step;        // virtual time of a step before the death
  absl::Duration gap;         // virtual time from the last commit before it to the first one after it
  int64_t rewound = 0;
  int64_t replayed = 0;
  double busiest_over_mean = 0;  // bytes that the busiest worker received, over the mean
};

// Errors: InvalidArgument for a placement that cannot be; Internal with the first invariant that broke.
absl::StatusOr<LargeUnitResult> MeasureDeath(const LargeUnitOptions& options);

}  // namespace shoal::sim
