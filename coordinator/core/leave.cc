// SPDX-License-Identifier: Apache-2.0
#include "coordinator/core/leave.h"

#include <algorithm>

#include "engine/base/connect_time.h"

namespace shoal {
namespace {

// Beyond the time to connect: who is left out has said by the end that it cannot, or hangs.
constexpr absl::Duration kBeyondConnectTime = absl::Seconds(2);
constexpr absl::Duration kLongest = absl::Minutes(5);

}  // namespace

bool Leave::IsRecent(absl::Time now) const {
  return length_ > absl::ZeroDuration() && now - ends_ < 2 * kLongest;
}

void Leave::Begin(int world_size, absl::Time now) {
  ongoing_ = true;
  if (now < ends_) return;
  length_ = IsRecent(now) ? std::min(3 * length_, kLongest)
                          : ConnectTime(world_size) + kBeyondConnectTime;
  ends_ = now + length_;
}

}  // namespace shoal
