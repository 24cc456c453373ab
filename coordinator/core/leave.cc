// SPDX-License-Identifier: Apache-2.0
#include "coordinator/core/leave.h"

#include <algorithm>

#include "engine/base/connect_time.h"

namespace shoal {
namespace {

// Beyond the time to connect: who is left out has said by the end that it cannot, or hangs.
constexpr absl::Duration kBeyondConnectTime = absl::Seconds(2);
constexpr absl::Duration kLongest = absl::Minutes(5);
constexpr absl::Duration kSoon = absl::Seconds(5);  // after the loss before, or the rest that followed
constexpr absl::Duration kFirstRest = absl::Seconds(1);
constexpr absl::Duration kLongestRest = absl::Seconds(4);
constexpr size_t kMostRemembered = 4096;

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

void Leave::BeginRest(absl::Time ends) {
  ongoing_ = true;
  ends_ = std::max(ends_, ends);
}

bool Absences::IsForgotten(const Absence& absence, absl::Time now) {
  return !absence.leave.IsRecent(now) && now - absence.rest_ends >= kSoon;
}

void Absences::Begin(uint64_t boot_nonce, const Leave& leave, bool served, absl::Time now) {
  std::erase_if(absences_, [&](const auto& item) { return IsForgotten(item.second, now); });
  if (boot_nonce == 0 || absences_.size() >= kMostRemembered) return;
  Absence& absence = absences_[boot_nonce];
  absence.leave = leave;
  if (!served) return;
  absence.losses = now - absence.rest_ends < kSoon ? absence.losses + 1 : 1;
  const int doublings = std::min(absence.losses - 2, 10);
  absence.rest_ends = now + (doublings < 0 ? absl::ZeroDuration()
                                           : std::min((1 << doublings) * kFirstRest, kLongestRest));
}

Leave Absences::End(uint64_t boot_nonce, absl::Time now) {
  const auto found = absences_.find(boot_nonce);
  if (found == absences_.end() || IsForgotten(found->second, now)) return Leave();
  Leave leave = found->second.leave;
  if (now < found->second.rest_ends) leave.BeginRest(found->second.rest_ends);
  return leave;
}

}  // namespace shoal
