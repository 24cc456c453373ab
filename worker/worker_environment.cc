// SPDX-License-Identifier: Apache-2.0
#include "worker/worker_environment.h"

#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/time/clock.h"
#include "engine/base/steady_clock.h"

namespace shoal {
namespace {

class BackgroundThread final : public BackgroundWork {
 public:
  BackgroundThread(std::function<void()> work, int niceness)
      : thread_([work = std::move(work), niceness] {
          pthread_setname_np(pthread_self(), "loader");
          // Of this thread only. Added to what the process was given; going down would need
          // privileges.
          if (niceness > 0) {
            const id_t self = static_cast<id_t>(gettid());
            setpriority(PRIO_PROCESS, self, getpriority(PRIO_PROCESS, self) + niceness);
          }
          work();
        }) {}
  ~BackgroundThread() override { thread_.join(); }

 private:
  std::thread thread_;
};

class SystemEnvironment final : public WorkerEnvironment {
 public:
  absl::Time Now() override { return SteadyNow(); }
  void SleepUntil(absl::Time until, absl::Mutex& mutex, const bool& stop) override {
    const auto stopped = [&] {
      absl::MutexLock lock(&mutex);
      return stop;
    };
    // In naps, since whoever sets `stop` rings no bell.
    while (!stopped() && SteadyNow() < until) {
      absl::SleepFor(std::min(until - SteadyNow(), absl::Milliseconds(10)));
    }
  }
  std::unique_ptr<BackgroundWork> RunInBackground(std::function<void()> work,
                                                  int niceness) override {
    return std::make_unique<BackgroundThread>(std::move(work), niceness);
  }
  absl::StatusOr<std::unique_ptr<CoordinatorLink>> Dial(CoordinatorLinkOptions options,
                                                        const proto::Hello& hello) override {
    return CoordinatorLink::Dial(std::move(options), hello);
  }
  absl::StatusOr<std::unique_ptr<Fabric>> CreateFabric(const FabricOptions& options) override {
    return Fabric::Create(options);
  }
  absl::StatusOr<std::unique_ptr<Model>> LoadModel(const std::string& directory,
                                                   const ModelConfig& config,
                                                   const ExpertPlacement& placement,
                                                   const ModelOptions& options, Kernels& kernels,
                                                   Exchange& exchange) override {
    return Model::Load(directory, config, placement, options, kernels, exchange);
  }
};

}  // namespace

WorkerEnvironment& WorkerEnvironment::System() {
  static SystemEnvironment* const environment = new SystemEnvironment;
  return *environment;
}

}  // namespace shoal
