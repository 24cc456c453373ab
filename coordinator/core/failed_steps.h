// SPDX-License-Identifier: Apache-2.0
// Steps that fail in epoch after epoch, though the members of each were connected, and whom the
// members were waiting for: a link that swallows messages, a rank that is always late.
#pragma once

#include <vector>

#include "absl/time/time.h"
#include "absl/types/span.h"
#include "coordinator/core/accusations.h"
#include "engine/base/ids.h"

namespace shoal {

class FailedSteps {
 public:
  // One more: the epoch ends with the first word of it. What is said of it later is added.
  void Begin(Epoch epoch, absl::Time now);
  // `by` was waiting for these in the epoch that failed last; of another epoch it does not matter.
  void Add(Epoch epoch, RankId by, absl::Span<const RankId> waited_for);
  void Clear();

  int count() const { return count_; }
  absl::Time since() const { return since_; }  // the first of them
  // Of all failures but the last, of which not all have spoken yet. Who is waited for, and waits
  // itself for a third, is not to blame.
  const std::vector<Accusation>& before() const { return before_; }

 private:
  int count_ = 0;
  absl::Time since_;
  Epoch last_epoch_;
  std::vector<Accusation> last_;    // who waited for whom
  std::vector<Accusation> before_;
};

}  // namespace shoal
