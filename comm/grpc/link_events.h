// SPDX-License-Identifier: Apache-2.0
// Whom the two ends of a gRPC link tell that they have ended.
#pragma once

#include "absl/status/status.h"
#include "engine/base/ids.h"

namespace shoal {

class LinkEvents {
 public:
  virtual ~LinkEvents() = default;
  // Any thread. `why` is said as "rank 3 <why>". Must not call back into the link.
  virtual void LinkLost(RankId peer, const absl::Status& why) = 0;
};

}  // namespace shoal
