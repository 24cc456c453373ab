// SPDX-License-Identifier: Apache-2.0
#include "coordinator/core/known_faults.h"

#include <algorithm>
#include <tuple>

namespace shoal {

void KnownFaults::Add(absl::Span<const KnownFault> faults) {
  all_.insert(all_.end(), faults.begin(), faults.end());
  std::sort(all_.begin(), all_.end(), [](const KnownFault& a, const KnownFault& b) {
    return std::tie(a.in, a.by, a.of) < std::tie(b.in, b.by, b.of);
  });
  all_.erase(std::unique(all_.begin(), all_.end()), all_.end());
}

void KnownFaults::Forget(absl::FunctionRef<bool(const KnownFault&)> which) {
  std::erase_if(all_, which);
}

}  // namespace shoal
