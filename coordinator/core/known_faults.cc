// SPDX-License-Identifier: Apache-2.0
#include "coordinator/core/known_faults.h"

#include <algorithm>
#include <tuple>

namespace shoal {
namespace {

bool Before(const KnownFault& a, const KnownFault& b) {
  return std::tie(a.in, a.by, a.of) < std::tie(b.in, b.by, b.of);
}

}  // namespace

void KnownFaults::Add(absl::Span<const KnownFault> faults) {
  all_.insert(all_.end(), faults.begin(), faults.end());
  std::sort(all_.begin(), all_.end(), Before);
  all_.erase(std::unique(all_.begin(), all_.end()), all_.end());
}

void KnownFaults::Forget(absl::FunctionRef<bool(const KnownFault&)> which) {
  std::erase_if(all_, which);
}

bool KnownFaults::Between(WorkerId a, WorkerId b, KnownFault::In in) const {
  return std::binary_search(all_.begin(), all_.end(), KnownFault{in, a, b}, Before) ||
         std::binary_search(all_.begin(), all_.end(), KnownFault{in, b, a}, Before);
}

}  // namespace shoal
