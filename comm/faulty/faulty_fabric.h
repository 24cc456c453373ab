// SPDX-License-Identifier: Apache-2.0
// A Fabric for tests that misbehaves by a script: it delays, loses, cuts and sends from the past.
// What happens in an exchange depends only on the script, the exchange and the rank, never on
// timing, so a failing seed fails again.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/time/time.h"
#include "comm/fabric.h"
#include "engine/base/ids.h"
#include "engine/parallel/exchange.h"

namespace shoal {

struct Fault {
  enum class Kind {
    kDelay,      // Post comes late, by up to `delay`
    kDrop,       // the message of `peer` does not arrive: Wait lasts until its deadline
    kCut,        // from here until the next Connect, `peer` is gone
    kStalePost,  // before Post, the same is posted in the epoch before, as by a rank of the past
  };
  Kind kind;
  RankId peer;           // kDrop, kCut
  absl::Duration delay;  // kDelay
  // Which exchanges: all that agree with what is given here, each with this probability.
  std::optional<StepId> step;
  std::optional<int32_t> layer;
  std::optional<ExchangePhase> phase;
  double probability = 1;
};

struct FaultScript {
  uint64_t seed = 0;
  std::vector<Fault> faults;
};

std::unique_ptr<Fabric> MakeFaultyFabric(std::unique_ptr<Fabric> fabric, FaultScript script);

}  // namespace shoal
