// SPDX-License-Identifier: Apache-2.0
// Log lines that come again and again, as those of a worker that fails anew whenever it is started:
// said at once the first time, then once a minute with how often they were left out.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace shoal {

class Repeats {
 public:
  // Whether the line that `what` stands for (without pids and durations, which differ each time) is
  // to be logged now; nothing: not now. If so, what to append: "", or " (and 11 times more
  // since the last such line)". Any thread.
  std::optional<std::string> Say(const std::string& what, absl::Time now);

 private:
  struct Line {
    absl::Time said;
    int64_t unsaid = 0;  // since then
  };
  absl::Mutex mutex_;
  std::map<std::string, Line> lines_ ABSL_GUARDED_BY(mutex_);  // of the last minutes
};

}  // namespace shoal
