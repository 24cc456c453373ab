// SPDX-License-Identifier: Apache-2.0
// Who could not connect to whom, and who waited in steps for whom in vain, until they are seen to
// get on with each other.
#pragma once

#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/types/span.h"
#include "coordinator/core/events.h"

namespace shoal {

// Of workers: who has a rank may change.
struct KnownFault {
  enum class In { kConnect, kStep };
  In in;
  WorkerId by;
  WorkerId of;  // `by` itself, if it said that the fault is its own
  bool operator==(const KnownFault&) const = default;
};

class KnownFaults {
 public:
  void Add(absl::Span<const KnownFault> faults);
  void Forget(absl::FunctionRef<bool(const KnownFault&)> which);
  // Of one of these two, said by the other one.
  bool Between(WorkerId a, WorkerId b, KnownFault::In in) const;
  // Each once.
  absl::Span<const KnownFault> all() const { return all_; }

 private:
  std::vector<KnownFault> all_;
};

}  // namespace shoal
