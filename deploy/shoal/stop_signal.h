// SPDX-License-Identifier: Apache-2.0
// Why a command ends: SIGINT or SIGTERM, or something that its threads report. The main thread
// waits here.
#pragma once

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace shoal {

class StopSignal {
 public:
  // Blocks SIGINT and SIGTERM for this thread and all that it starts from now on: create it before
  // any other thread. A second signal after the first was returned ends the process at once (exit
  // code 130 for SIGINT, 143 for SIGTERM).
  StopSignal();
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  // Any thread: the command cannot go on. The first one counts.
  void Fail(absl::Status why);
  // True when a signal came, false at `deadline`. The first error given to Fail.
  absl::StatusOr<bool> Wait(absl::Time deadline);

 private:
  int signals_ = -1;
  int failed_ = -1;
  absl::Mutex mutex_;
  absl::Status why_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace shoal
