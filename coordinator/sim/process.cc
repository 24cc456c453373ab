// SPDX-License-Identifier: Apache-2.0
#include "coordinator/sim/process.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/cluster.pb.h"

namespace shoal::sim {

class Process::Background final : public BackgroundWork {
 public:
  Background(Process& process, std::shared_ptr<Thread> thread)
      : process_(process), thread_(std::move(thread)) {}
  ~Background() override {
    while (!thread_->over) {
      process_.WaitUntil([this] { return thread_->over; }, absl::InfiniteFuture());
      if (process_.dead_ && !thread_->over) Fiber::Suspend();  // its turn comes
    }
  }

 private:
  Process& process_;
  const std::shared_ptr<Thread> thread_;
};

Process::Process(const ProcessOptions& options, uint64_t seed, Timeline& timeline, Network& network,
                 Switchboard& switchboard, std::function<void(const absl::Status&)> exited)
    : options_(options),
      random_(seed, 1000 + static_cast<uint64_t>(options.number)),
      timeline_(timeline),
      network_(network),
      switchboard_(switchboard),
      exited_(std::move(exited)) {
  StartThread([this] { Main(); });
  Wake();
}

Process::~Process() {
  Kill();
  *alive_ = false;
}

void Process::Main() {
  if (dead_) return;
  WorkerOptions options;
  options.model = MakeModelConfig(options_.shape);
  options.backend = "reference";  // for its names only: the model has no weights
  options.threads = 1;
  options.block_tokens = options_.block_tokens;
  options.cache_blocks = options_.cache_blocks;
  options.max_batch_rows = options_.max_batch_rows;
  options.max_running = options_.max_running;
  options.fabric.transport = "sim";
  options.host = absl::StrCat("host", options_.host);
  options.environment = this;
  Worker worker(std::move(options));
  worker_ = &worker;
  const absl::Status status = worker.Run();
  worker_ = nullptr;
  if (dead_) return;
  timeline_.After(absl::ZeroDuration(), [exited = exited_, status] { exited(status); });
}

// --- Threads ---

std::shared_ptr<Process::Thread> Process::StartThread(std::function<void()> body) {
  threads_.push_back(std::make_shared<Thread>(std::move(body)));
  return threads_.back();
}

void Process::ForgetFinished() {
  std::erase_if(threads_, [](const std::shared_ptr<Thread>& thread) { return thread->over; });
}

void Process::Resume(Thread& thread) {
  current_ = &thread;
  thread.fiber.Resume();
  current_ = nullptr;
  thread.over = thread.fiber.finished();
}

void Process::Run() {
  if (paused_ || hung_ || dead_) return;
  bool moved = true;
  while (moved) {
    moved = false;
    for (size_t i = 0; i < threads_.size(); ++i) {  // they may become more
      Thread& thread = *threads_[i];
      if (thread.over) continue;
      if (thread.ready != nullptr && timeline_.now() < thread.deadline && !(*thread.ready)()) {
        continue;
      }
      Resume(thread);
      moved = true;
    }
  }
  ForgetFinished();
  absl::Time next = absl::InfiniteFuture();
  for (const auto& thread : threads_) next = std::min(next, thread->deadline);
  if (next >= timer_) return;
  timer_ = next;
  timeline_.At(next, [this, next, alive = alive_] {
    if (!*alive || timer_ != next) return;
    timer_ = absl::InfiniteFuture();
    Run();
  });
}

bool Process::WaitUntil(absl::FunctionRef<bool()> ready, absl::Time deadline) {
  if (dead_) return false;
  if (ready()) return true;
  Thread& self = *current_;
  self.ready = &ready;
  self.deadline = deadline;
  Fiber::Suspend();
  self.ready = nullptr;
  self.deadline = absl::InfiniteFuture();
  return !dead_ && ready();
}

void Process::WakeAt(absl::Time time) {
  timeline_.At(time, [this, alive = alive_] {
    if (*alive) Run();
  });
}

void Process::Deliver(std::function<void()> what) {
  if (dead_) return;
  if (paused_) return deferred_.push_back(std::move(what));
  what();
}

// --- Faults ---

void Process::Kill() {
  if (dead_) return;
  dead_ = true;
  deferred_.clear();
  switchboard_.Died(*this);
  network_.Died(*this);
  if (worker_ != nullptr) worker_->Stop();
  // Its threads end where they stand; nobody sees it.
  while (!threads_.empty()) {
    for (size_t i = 0; i < threads_.size(); ++i) Resume(*threads_[i]);
    ForgetFinished();
  }
}

void Process::Terminate() {
  if (worker_ == nullptr) return;
  worker_->Stop();
  Wake();
}

void Process::Continue() {
  if (!paused_ && !hung_) return;
  paused_ = hung_ = false;
  for (std::function<void()>& what : std::exchange(deferred_, {})) what();
  Wake();
}

// --- WorkerEnvironment ---

void Process::SleepUntil(absl::Time until, absl::Mutex& mutex, const bool& stop) {
  WaitUntil(
      [&] {
        absl::MutexLock lock(&mutex);
        return stop;
      },
      until);
}

std::unique_ptr<BackgroundWork> Process::RunInBackground(std::function<void()> work, int) {
  return std::make_unique<Background>(*this, StartThread(std::move(work)));
}

absl::StatusOr<std::unique_ptr<CoordinatorLink>> Process::Dial(CoordinatorLinkOptions options,
                                                               const proto::Hello& hello) {
  return switchboard_.Dial(*this, std::move(options), hello);
}

absl::StatusOr<std::unique_ptr<Fabric>> Process::CreateFabric(const FabricOptions& options) {
  return network_.CreateFabric(*this, options);
}

absl::StatusOr<std::unique_ptr<Model>> Process::LoadModel(const std::string&, const ModelConfig&,
                                                          const ExpertPlacement& placement,
                                                          const ModelOptions& options, Kernels&,
                                                          Exchange& exchange) {
  const absl::Duration time =
      options_.load_time * slowness_ * (0.5 + 0.001 * static_cast<double>(random_.Below(1000)));
  WaitUntil([] { return false; }, timeline_.now() + time);
  if (dead_) return absl::AbortedError("killed");
  if (std::exchange(device_broken_, false)) return absl::InternalError("device lost");
  return MakeSimModel(options_.shape, placement, options, exchange,
                      [this](int64_t rows) { return Compute(rows); });
}

absl::Status Process::Compute(int64_t rows) {
  const absl::Duration time = (options_.step_time + options_.row_time * rows) * slowness_ *
                              (0.9 + 0.0002 * static_cast<double>(random_.Below(1000)));
  WaitUntil([] { return false; }, timeline_.now() + time);
  if (dead_) return absl::AbortedError("killed");
  if (std::exchange(device_broken_, false)) return absl::InternalError("device lost");
  return absl::OkStatus();
}

}  // namespace shoal::sim
