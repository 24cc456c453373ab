// SPDX-License-Identifier: Apache-2.0
// Both ends of a worker's stream in one process, over loopback, and the core's queue between them.
#pragma once

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "coordinator/link/worker_link.h"
#include "gtest/gtest.h"
#include "proto/cluster.pb.h"
#include "worker/coordinator_link.h"

namespace shoal {

// The core's queue, seen by the test.
class LinkEvents {
 public:
  bool Post(Event event) {
    absl::MutexLock lock(&mutex_);
    if (!std::holds_alternative<Heartbeat>(event)) {
      events_.push_back(std::move(event));
    } else {
      ++heartbeats_;
    }
    return true;
  }
  // The next event that is no heartbeat; Tick if none comes.
  Event Next(absl::Duration timeout = absl::Seconds(10)) {
    absl::MutexLock lock(&mutex_);
    const auto any = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !events_.empty(); };
    if (!mutex_.AwaitWithTimeout(absl::Condition(&any), timeout)) return Tick{};
    Event event = std::move(events_.front());
    events_.erase(events_.begin());
    return event;
  }
  int heartbeats() {
    absl::MutexLock lock(&mutex_);
    return heartbeats_;
  }

 private:
  absl::Mutex mutex_;
  std::vector<Event> events_ ABSL_GUARDED_BY(mutex_);
  int heartbeats_ ABSL_GUARDED_BY(mutex_) = 0;
};

inline proto::Hello GoodHello() {
  proto::Hello hello;
  hello.set_protocol_version(1);
  hello.set_build("build-a");
  hello.set_model("model-a");
  hello.set_numerics("reference");
  hello.set_transport("shm");
  hello.set_cluster("cluster-a");
  hello.set_block_tokens(16);
  hello.set_max_batch_rows(64);
  hello.set_max_running(8);
  hello.set_endpoint("shm:here:socket");
  hello.set_host("here");
  hello.set_pid(4711);
  hello.set_cache_blocks(100);
  return hello;
}

class LinkTest : public ::testing::Test {
 protected:
  void Start(std::function<void(WorkerLinkOptions&)> change = nullptr) {
    WorkerLinkOptions options;
    options.identity.build = "build-a";
    options.identity.model = "model-a";
    options.identity.block_tokens = 16;
    options.identity.max_batch_rows = 64;
    options.identity.max_running = 8;
    if (change) change(options);
    auto link =
        WorkerLink::Start(options, [this](Event event) { return events_.Post(std::move(event)); });
    ASSERT_TRUE(link.ok()) << link.status();
    link_ = *std::move(link);
  }
  std::unique_ptr<CoordinatorLink> Dial(
      const proto::Hello& hello, std::function<void(std::optional<Epoch>)> on_interrupt = nullptr) {
    CoordinatorLinkOptions options;
    options.coordinator = link_->address();
    options.on_interrupt = std::move(on_interrupt);
    auto dialled = CoordinatorLink::Dial(options, hello);
    EXPECT_TRUE(dialled.ok()) << dialled.status();
    return *std::move(dialled);
  }
  WorkerId Join(CoordinatorLink&) {
    const Event event = events_.Next();
    const auto* joined = std::get_if<WorkerJoined>(&event);
    EXPECT_NE(joined, nullptr);
    return joined == nullptr ? WorkerId(-1) : joined->worker;
  }

  LinkEvents events_;
  std::unique_ptr<WorkerLink> link_;
};

inline absl::Time Soon() { return absl::Now() + absl::Seconds(10); }

}  // namespace shoal
