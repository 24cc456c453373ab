// SPDX-License-Identifier: Apache-2.0
// A simulated worker process: the real worker on fibers instead of threads, in virtual time, on a machine
// that can stop, slow down, lose its device or die.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "coordinator/sim/fiber.h"
#include "coordinator/sim/network.h"
#include "coordinator/sim/random.h"
#include "coordinator/sim/sim_model.h"
#include "coordinator/sim/switchboard.h"
#include "coordinator/sim/timeline.h"
#include "worker/worker.h"

namespace shoal::sim {

struct ProcessOptions {
  int number = 0;  // its pid; no two processes of a world have the same
  int host = 0;
  int fixed_rank = -1;  // the only rank its transport lets it have, as with MPI; -1: any
  int64_t cache_blocks = 0;
  int block_tokens = 8;
  int max_batch_rows = 64;
  int max_running = 8;
  SimModelShape shape;
  absl::Duration load_time = absl::Milliseconds(100);
  absl::Duration step_time = absl::Microseconds(300);  // per layer
  absl::Duration row_time = absl::Microseconds(20);    // per layer and row
  Epoch last_epoch = Epoch(0);  // what it claims at its first dial, if more than it knows
};

class Process final : public WorkerEnvironment {
 public:
  // `exited` is told, in an event of its own, when the worker gave up by itself.
  Process(const ProcessOptions& options, uint64_t seed, Timeline& timeline, Network& network,
          Switchboard& switchboard, std::function<void(const absl::Status&)> exited);
  ~Process() override;

  // SIGKILL: nothing it does from now on can be seen.
  void Kill();
  // SIGTERM: it leaves in good order.
  void Terminate();
  // SIGSTOP.
  void Pause() { paused_ = true; }
  // Its engine stands still, as in a driver that does not return: what comes is received, and its
  // heart beats.
  void Hang() { hung_ = true; }
  // After either.
  void Continue();
  // Everything it computes takes so many times as long.
  void SetSlowness(double factor) { slowness_ = factor; }
  // Its next computation, or what it is loading, fails.
  void BreakDevice() { device_broken_ = true; }

  // The latest epoch that its worker was told of, by whichever coordinator.
  void NoteAssigned(Epoch epoch) { assigned_ = std::max(assigned_, epoch); }
  Epoch assigned() const { return assigned_; }

  bool dead() const { return dead_; }
  bool paused() const { return paused_; }
  const ProcessOptions& options() const { return options_; }

  // --- For what it is made of ---

  // Suspends the calling fiber until ready() or the deadline. What ready() depends on says Wake when it
  // changes. False: not ready, the deadline passed or the process is dead.
  bool WaitUntil(absl::FunctionRef<bool()> ready, absl::Time deadline);
  void Wake() { WakeAt(timeline_.now()); }
  void WakeAt(absl::Time time);
  // Something arrives: it happens now, or when the process goes on.
  void Deliver(std::function<void()> what);

  // --- WorkerEnvironment ---

  absl::Time Now() override { return timeline_.now(); }
  void SleepUntil(absl::Time until, absl::Mutex& mutex, const bool& stop) override;
  std::unique_ptr<BackgroundWork> RunInBackground(std::function<void()> work, int niceness) override;
  absl::StatusOr<std::unique_ptr<CoordinatorLink>> Dial(CoordinatorLinkOptions options,
                                                        const proto::Hello& hello) override;
  absl::StatusOr<std::unique_ptr<Fabric>> CreateFabric(const FabricOptions& options) override;
  absl::StatusOr<std::unique_ptr<Model>> LoadModel(const std::string& directory,
                                                   const ModelConfig& config,
                                                   const ExpertPlacement& placement,
                                                   const ModelOptions& options, Kernels& kernels,
                                                   Exchange& exchange) override;

 private:
  // A thread of the process.
  struct Thread {
    explicit Thread(std::function<void()> body) : fiber(std::move(body)) {}
    Fiber fiber;
    const absl::FunctionRef<bool()>* ready = nullptr;  // null: not waiting
    absl::Time deadline = absl::InfiniteFuture();
    bool over = false;
  };
  class Background;

  std::shared_ptr<Thread> StartThread(std::function<void()> body);
  void ForgetFinished();
  void Main();
  void Run();
  void Resume(Thread& thread);
  absl::Status Compute(int64_t rows);

  const ProcessOptions options_;
  Random random_;
  Timeline& timeline_;
  Network& network_;
  Switchboard& switchboard_;
  const std::function<void(const absl::Status&)> exited_;

  std::vector<std::shared_ptr<Thread>> threads_;  // and who waits for one's end
  Thread* current_ = nullptr;
  Worker* worker_ = nullptr;  // while it runs
  std::vector<std::function<void()>> deferred_;  // arrived while it stood still
  absl::Time timer_ = absl::InfiniteFuture();    // the next event that looks at deadlines
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);  // events outlive us
  Epoch assigned_;
  double slowness_ = 1;
  bool device_broken_ = false;
  bool paused_ = false;
  bool hung_ = false;
  bool dead_ = false;
};

}  // namespace shoal::sim
