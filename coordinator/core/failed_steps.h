// SPDX-License-Identifier: Apache-2.0
// Steps that fail in epoch after epoch, though the members of each were connected, and whom the
// members were waiting for: a link that swallows messages, a rank that is always late.
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "coordinator/core/accusations.h"
#include "engine/base/ids.h"

namespace shoal {

class FailedSteps {
 public:
  explicit FailedSteps(absl::Duration step_timeout) : step_timeout_(step_timeout) {}

  // One more: the epoch ends with the first word of it. What is said of it later is added.
  void Begin(Epoch epoch, const absl::Status& why, absl::Time now);
  // `by` was waiting for these, each named once, in the epoch that failed last; of another epoch it
  // does not matter.
  void Add(Epoch epoch, RankId by, absl::Span<const RankId> waited_for);
  // A step was committed, so long after the first one of its epoch. True: that shows that steps
  // fail no more; small ones may do where larger ones are lost.
  bool Committed(absl::Duration since_first);
  // They have failed often enough for somebody to be left out: who waited for whom; empty
  // otherwise, and if all blame nobody. Of all failures but the last, of which not all have spoken
  // yet; if steps were committed between them, of pairs that failed more than once, and of ranks
  // that each failure is about. Who is waited for, and waits itself for a third, is not to blame.
  std::vector<Accusation> ToBlame(absl::Time now) const;
  // These have left, in order of rank, and perhaps were what the last failure was about.
  void Forget(const std::vector<RankId>& ranks);
  // They fail still, but what was said does not count any more: somebody was left out for it.
  void Restart();
  // They fail no more, or none can be made.
  void End();

  // The first of them.
  absl::Time since() const { return since_; }

 private:
  struct Wait {
    Accusation accusation;
    int failure;
  };
  void Conclude();

  const absl::Duration step_timeout_;
  absl::Time since_ = absl::InfiniteFuture();
  bool timed_out_ = false;  // the last one
  // Since Restart:
  int count_ = 0;
  absl::Time first_;
  bool committed_between_ = false;
  Epoch last_epoch_;
  std::vector<std::vector<RankId>> last_;  // for whom each rank waited, in order of rank
  std::vector<Wait> before_;               // of the failures before, the latest ones
};

}  // namespace shoal
