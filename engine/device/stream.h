// SPDX-License-Identifier: Apache-2.0
// The order in which one device does its work, and the place where its first failure waits to be
// asked for.
#pragma once

#include "absl/status/status.h"

namespace shoal {

// Operations launched on a stream run in order and never report errors themselves: the first
// failure sticks, later operations become no-ops in effect, and Finish returns it once. Host
// backends compute at the launch.
class Stream {
 public:
  virtual ~Stream() = default;

  bool ok() const { return status_.ok(); }
  // Records the first failure; later ones are consequences.
  void Fail(absl::Status status) {
    if (status_.ok()) status_ = std::move(status);
  }
  // Waits for everything launched, returns the first failure and clears it.
  virtual absl::Status Finish() {
    absl::Status status = std::move(status_);
    status_ = absl::OkStatus();
    return status;
  }

 private:
  absl::Status status_;
};

}  // namespace shoal
