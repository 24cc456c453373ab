// SPDX-License-Identifier: Apache-2.0
// Who could not connect to whom in an epoch, and whom to leave out so that all others can.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "engine/base/ids.h"

namespace shoal {

// `by` could not connect to `of`; itself, if the fault is its own.
struct Accusation {
  RankId by;
  RankId of;
  bool operator==(const Accusation&) const = default;
};

// Of one epoch.
class Accusations {
 public:
  // `by` says that it cannot connect to these; none: the fault is its own. It has not said so yet.
  void Add(RankId by, absl::Span<const RankId> unreached, const absl::Status& why, absl::Time now);
  void Clear();
  // Somebody has said so, and whoever else is not ready has too, or has had time to.
  bool Complete(int unready, absl::Time now) const;

  absl::Span<const Accusation> all() const { return all_; }
  // Of the first who said so.
  const std::string& why() const { return why_; }
  absl::Time since() const { return since_; }

 private:
  std::vector<Accusation> all_;
  int accusers_ = 0;
  std::string why_;
  absl::Time since_;
};

// Ranks without whom no accusation is left and that the others can do without; none if no such ones
// were found. First comes the rank with the most accusations, by it and of it; of equal ones that
// with the most of it, then the one that joined last; in the place of one that is needed go all
// that it cannot meet. A link between two that is cut costs one of them, a rank that nobody reaches
// is that rank. joined: by rank, larger is later. can_do_without: whoever needs some needs more,
// too.
std::vector<RankId> LeaveOut(absl::Span<const Accusation> accusations,
                             absl::Span<const int64_t> joined,
                             absl::FunctionRef<bool(absl::Span<const RankId>)> can_do_without);

}  // namespace shoal
