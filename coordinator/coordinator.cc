// SPDX-License-Identifier: Apache-2.0
#include "coordinator/coordinator.h"

#include <pthread.h>

#include <utility>
#include <variant>

#include "engine/base/status_macros.h"
#include "engine/base/steady_clock.h"

namespace shoal {

absl::StatusOr<std::unique_ptr<Coordinator>> Coordinator::Create(CoordinatorOptions options) {
  std::unique_ptr<Coordinator> coordinator(new Coordinator(std::move(options)));
  Coordinator* self = coordinator.get();
  SHOAL_ASSIGN_OR_RETURN(coordinator->link_,
                         WorkerLink::Start(self->options_.link, [self](Event event) {
                           return self->Post(std::move(event));
                         }));
  return coordinator;
}

Coordinator::Coordinator(CoordinatorOptions options)
    : options_(std::move(options)),
      core_(Core::Create(options_.core)),
      snapshot_(core_->Snapshot(SteadyNow())) {}

Coordinator::~Coordinator() { Stop(SteadyNow()); }

void Coordinator::Start(EmissionSink& sink) {
  thread_ = std::thread([this, &sink] { Run(sink); });
}

bool Coordinator::Post(Event event) {
  // Who joined and who is lost must be known whatever happens; there are no more of these than
  // connections.
  const bool always = std::holds_alternative<WorkerLost>(event) ||
                      std::holds_alternative<WorkerJoined>(event) ||
                      std::holds_alternative<DrainStarted>(event);
  const size_t limit = std::holds_alternative<RequestArrived>(event)
                           ? options_.max_queued_events / 2
                           : options_.max_queued_events;
  absl::MutexLock lock(&mutex_);
  if (stopping_ || (!always && queue_.size() >= limit)) return false;
  queue_.push_back(std::move(event));
  changed_.NotifyAll();
  return true;
}

ClusterSnapshot Coordinator::Snapshot() {
  absl::MutexLock lock(&mutex_);
  return snapshot_;
}

void Coordinator::Run(EmissionSink& sink) {
  pthread_setname_np(pthread_self(), "core");
  std::vector<Event> events;
  std::vector<Command> commands;
  absl::Time next_tick = SteadyNow();
  const auto step = [&](const Event& event, absl::Time now) {
    core_->Step(event, now, commands);
    for (Command& command : commands) Execute(std::move(command), sink);
    commands.clear();
  };
  while (true) {
    events.clear();
    {
      absl::MutexLock lock(&mutex_);
      const auto awake = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
        return stopping_ || !queue_.empty();
      };
      changed_.WaitUntil(mutex_, next_tick, awake);
      if (stopping_) return;
      events.swap(queue_);
    }
    for (const Event& event : events) step(event, SteadyNow());
    if (const absl::Time now = SteadyNow(); now >= next_tick) {
      step(Tick{}, now);
      link_->Tick(now);
      ClusterSnapshot snapshot = core_->Snapshot(now);
      absl::MutexLock lock(&mutex_);
      snapshot_ = std::move(snapshot);
      changed_.NotifyAll();
      next_tick = now + options_.tick;
    }
  }
}

void Coordinator::Execute(Command command, EmissionSink& sink) {
  if (auto* plan = std::get_if<SendPlan>(&command)) {
    link_->Execute(*plan);
  } else if (auto* emit = std::get_if<Emit>(&command)) {
    sink.OnEmit(std::move(*emit));
  } else if (auto* reject = std::get_if<Reject>(&command)) {
    sink.OnReject(std::move(*reject));
  } else if (auto* assign = std::get_if<AssignRank>(&command)) {
    link_->Execute(*assign);
  } else if (auto* load = std::get_if<LoadExperts>(&command)) {
    link_->Execute(*load);
  } else if (auto* evict = std::get_if<EvictWorker>(&command)) {
    link_->Execute(*evict);
  } else if (std::holds_alternative<Drained>(command)) {
    absl::MutexLock lock(&mutex_);
    drained_ = true;
    changed_.NotifyAll();
  }
}

bool Coordinator::WaitUntilServing(absl::Time deadline) {
  const auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return snapshot_.serving || stopping_;
  };
  absl::MutexLock lock(&mutex_);
  return changed_.WaitUntil(mutex_, deadline, ready) && snapshot_.serving;
}

bool Coordinator::Drain(absl::Time deadline) {
  Post(DrainStarted{});
  const auto over = [this]()
                        ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return drained_ || stopping_; };
  absl::MutexLock lock(&mutex_);
  return changed_.WaitUntil(mutex_, deadline, over) && drained_;
}

void Coordinator::Stop(absl::Time deadline) {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    changed_.NotifyAll();
  }
  if (thread_.joinable()) thread_.join();
  if (link_ != nullptr) link_->Shutdown("the coordinator stops", deadline);
}

}  // namespace shoal
