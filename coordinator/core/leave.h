// SPDX-License-Identifier: Apache-2.0
// One that others cannot reach, or that cannot reach them, is out of the epochs for a while: a try to
// let it in costs all others a pause, so each leave soon after another is three times as long.
#pragma once

#include "absl/time/time.h"

namespace shoal {

class Leave {
 public:
  bool ongoing() const { return ongoing_; }
  // Out, and may be tried again by now.
  bool Over(absl::Time now) const { return ongoing_ && now >= ends_; }
  // It was out, and not long ago.
  bool IsRecent(absl::Time now) const;

  // What is left of one that was broken off goes on: it has not had its try.
  void Begin(int world_size, absl::Time now);
  void End() { ongoing_ = false; }

 private:
  bool ongoing_ = false;
  absl::Time ends_;  // or would have
  absl::Duration length_;
};

}  // namespace shoal
