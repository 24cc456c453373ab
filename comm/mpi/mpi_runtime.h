// SPDX-License-Identifier: Apache-2.0
// MPI in this process: started once, ended when the process exits, and a place for buffers that MPI
// may still write to or read from after we have given up on their operation.
//
// MPI calls that involve a dead rank never return, so nothing here or in the other files of this
// folder calls anything but starts, tests and probes; even the end is an attempt with a deadline (a
// barrier that does not complete means that somebody is missing, and MPI_Finalize would hang: then
// the process leaves without it, and mpirun ends the job).
#pragma once

#include <mpi.h>

#include <list>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace shoal {

// OK or Internal with MPI's own text, behind `what`.
absl::Status MpiStatus(int code, absl::string_view what);

class MpiRuntime {
 public:
  // The one of this process; the first call starts MPI. Errors: Unavailable when MPI does not
  // start, grants no thread level that lets a thread other than the first call it, or has been
  // ended already.
  static absl::StatusOr<MpiRuntime*> Get();

  int rank() const { return rank_; }
  int size() const { return size_; }
  const std::string& host() const { return host_; }

  // A block of kTagsPerFabric tags for one fabric, so that successive fabrics of a process do not
  // hear each other's remains. All ranks make their fabrics in the same order.
  static constexpr int kTagsPerFabric = 4;
  int NextTags();

  // Keeps `memory` until `request` completes.
  void Quarantine(MPI_Request request, std::shared_ptr<const void> memory);
  // Lets go of what has completed. How much is left.
  size_t SweepQuarantine();

 private:
  struct Abandoned {
    MPI_Request request;
    std::shared_ptr<const void> memory;
  };

  absl::Status Start();
  static void AtExit();

  int rank_ = 0;
  int size_ = 0;
  int largest_tag_ = 0;
  int fabrics_ = 0;
  std::string host_;
  std::list<Abandoned> quarantine_;
};

}  // namespace shoal
