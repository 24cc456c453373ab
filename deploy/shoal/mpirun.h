// SPDX-License-Identifier: Apache-2.0
// Starting ranks with OpenMPI's mpirun on this machine.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"

namespace shoal {

// "mpirun ... -n RANKS", to be followed by the program: more ranks than cores are fine (who waits,
// yields), ranks are not pinned (threads are ours to place), root is allowed. `outlive`: when a rank
// dies the others go on; else mpirun ends them all.
std::vector<std::string> MpirunCommand(int ranks, bool outlive);

// Whether a launcher made this process a rank: mpirun, or srun with PMIx.
bool IsMpiRank();

// Replaces this process by mpirun with `ranks` copies of the same command line. Returns only on
// failure: NotFound.
absl::Status BecomeMpirun(int ranks);

// This program's file; another name for it if the file was replaced since, whose processes would be
// of another build.
std::string OwnPath();

}  // namespace shoal
