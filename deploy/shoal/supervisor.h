// SPDX-License-Identifier: Apache-2.0
// Child processes that are started again when they die, and that die with this process however it
// ends: the kernel itself sends them a signal (PR_SET_PDEATHSIG), so that not even kill -9 leaves
// one behind.
#pragma once

#include <sys/types.h>

#include <csignal>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace shoal {

// Environment variable that tells a child what its supervisor calls this life of it: 32 random hex
// digits. Whoever shows them is that process (or started by it).
inline constexpr char kSupervisedAs[] = "SHOAL_SUPERVISED_AS";

struct ChildSpec {
  std::string name;                      // "worker 2", for messages
  std::vector<std::string> argv;         // argv[0] is a path, or found in PATH
  std::vector<std::string> environment;  // "KEY=VALUE", beside this process's own
};

// How one life of a child ended.
struct ChildExit {
  int child = 0;  // index
  std::string name;
  pid_t pid = 0;
  int code = -1;   // exit code, or -1
  int signal = 0;  // signal that ended it, or 0
  absl::Duration lived;
  std::string ToString() const;  // "worker 2 (pid 4711) was killed by signal 9 (Killed) after 3.2s"
};

struct SupervisorOptions {
  std::vector<ChildSpec> children;
  // A child that dies for the first time, or after a life of at least `healthy_after`, is started
  // again at once; one that dies earlier than that waits, twice as long each time.
  absl::Duration min_backoff = absl::Milliseconds(100);
  absl::Duration max_backoff = absl::Seconds(5);
  absl::Duration healthy_after = absl::Seconds(5);
  // Asked when a child has ended, on the supervisor's thread: start it again? Null: always.
  std::function<bool(const ChildExit&)> restart;
};

class Supervisor {
 public:
  // Starts all children. Errors: Internal with errno when the first cannot be started. (A program
  // that does not exist is a child that ends with code 127.)
  static absl::StatusOr<std::unique_ptr<Supervisor>> Start(SupervisorOptions options);
  ~Supervisor();  // Stop(0)
  Supervisor(const Supervisor&) = delete;
  Supervisor& operator=(const Supervisor&) = delete;

  // Ends the child that was started as `supervised_as`, if it still runs, at `when`, or at once if
  // that has passed; it is then started again as after any death. A later call replaces the time;
  // InfiniteFuture: not at all.
  void KillAt(const std::string& supervised_as, absl::Time when);
  // Sends a signal to a child, by its index, if it runs.
  void Signal(int child, int signal);
  // Starts nothing again from now on.
  void StopRestarting();
  // SIGTERM to all, and SIGKILL to their process groups when `grace` has passed. Returns when all
  // are gone.
  void Stop(absl::Duration grace);

 private:
  class Process;
  explicit Supervisor(std::unique_ptr<Process> process);

  std::unique_ptr<Process> process_;
};

}  // namespace shoal
