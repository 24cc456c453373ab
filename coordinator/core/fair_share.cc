// SPDX-License-Identifier: Apache-2.0
#include "coordinator/core/fair_share.h"

#include <algorithm>
#include <limits>

#include "engine/base/check.h"

namespace shoal {

FairShare::User& FairShare::Join(const std::string& name) {
  auto [it, is_new] = users_.try_emplace(name);
  User& user = it->second;
  if (is_new) user.serial = ++last_serial_;
  if (user.live++ == 0) {
    if (!is_new) --absent_;
    int64_t lowest = std::numeric_limits<int64_t>::max();
    for (const auto& [other_name, other] : users_) {
      if (other.live > 0 && &other != &user) lowest = std::min(lowest, other.served);
    }
    if (lowest != std::numeric_limits<int64_t>::max()) user.served = std::max(user.served, lowest);
  }
  return user;
}

void FairShare::Leave(const std::string& name) {
  auto it = users_.find(name);
  SHOAL_CHECK(it != users_.end() && it->second.live > 0);
  if (--it->second.live > 0) return;
  if (++absent_ <= kMaxAbsent) return;
  auto lowest = users_.end();
  for (auto other = users_.begin(); other != users_.end(); ++other) {
    if (other->second.live > 0) continue;
    if (lowest == users_.end() || other->second.served < lowest->second.served) lowest = other;
  }
  users_.erase(lowest);
  --absent_;
}

}  // namespace shoal
