// SPDX-License-Identifier: Apache-2.0
#include "comm/epoch_order.h"

#include "absl/strings/str_cat.h"

namespace shoal {

absl::Status CheckEpochFollows(Epoch next, Epoch current, bool current_used) {
  if (next > current || (next == current && !current_used)) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("epoch ", next.value(), " cannot be installed: this rank is already in epoch ",
                   current.value()));
}

}  // namespace shoal
