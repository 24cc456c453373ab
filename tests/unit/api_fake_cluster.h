// SPDX-License-Identifier: Apache-2.0
// A cluster for tests of the API: no model, but the core's manners. Each choice gets the tokens
// that a script gives for it, one at a time, until they end or max_tokens are out.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "coordinator/api/cluster_port.h"

namespace shoal::testing {

class FakeCluster : public ClusterPort {
 public:
  using Script = std::function<std::vector<int32_t>(const Request& request, int choice)>;

  // The tokens of a choice; after fewer than max_tokens an end token ends it (kStop).
  explicit FakeCluster(Script script) : script_(std::move(script)) {}
  ~FakeCluster() override { Stop(); }

  void Start(EmissionSink& sink) {
    thread_ = std::thread([this, &sink] { Run(sink); });
  }
  void Stop() {
    {
      absl::MutexLock lock(&mutex_);
      stopping_ = true;
    }
    if (thread_.joinable()) thread_.join();
  }

  bool Post(Event event) override {
    absl::MutexLock lock(&mutex_);
    if (full) return false;
    events_.push_back(std::move(event));
    return true;
  }
  ClusterSnapshot Snapshot() override {
    absl::MutexLock lock(&mutex_);
    ClusterSnapshot snapshot;
    snapshot.epoch = Epoch(3);
    snapshot.formed = formed;
    snapshot.serving = serving;
    snapshot.paused = paused;
    snapshot.least_holders = 2;
    snapshot.most_holders = 4;
    snapshot.least_hosts = 1;
    snapshot.requests_running = static_cast<int64_t>(running_.size());
    WorkerSnapshot worker;
    worker.host = "localhost";
    worker.state = "serving";
    worker.pid = 4711;
    worker.experts = 80;
    worker.blocks_used = static_cast<int64_t>(running_.size());
    worker.running_sequences = static_cast<int>(running_.size());
    worker.blocks_total = 100;
    snapshot.block_lifetimes.Add(absl::Milliseconds(15));
    snapshot.block_lifetimes.Add(absl::Hours(1));
    snapshot.workers = {worker};
    snapshot.expert_tokens = {{}, {7, 0, 12}};
    return snapshot;
  }
  int64_t running() { return Snapshot().requests_running; }
  std::vector<Request> requests() {
    absl::MutexLock lock(&mutex_);
    return requests_;
  }

  // What the test turns; hold the mutex.
  absl::Mutex mutex_;
  bool formed = true;
  bool serving = true;
  std::string paused;
  bool full = false;               // Post says no
  size_t max_running = 1000;       // choices; beyond: Reject
  absl::Status fail_after_tokens;  // not OK: every choice ends so after two tokens
  absl::Duration token_interval = absl::ZeroDuration();

 private:
  struct Choice {
    Request request;
    std::vector<int32_t> tokens;
    size_t given = 0;
  };
  using Key = std::pair<RequestId, int>;

  void Run(EmissionSink& sink) {
    while (true) {
      absl::Duration pause;
      std::vector<Emit> emits;
      std::vector<Reject> rejects;
      {
        absl::MutexLock lock(&mutex_);
        if (stopping_) return;
        for (const Event& event : std::exchange(events_, {})) Take(event, rejects);
        for (auto it = running_.begin(); it != running_.end();) {
          emits.push_back(Next(it->first, it->second));
          it = emits.back().finish == FinishReason::kNone ? std::next(it) : running_.erase(it);
        }
        pause = token_interval;
      }
      for (Reject& reject : rejects) sink.OnReject(std::move(reject));
      for (Emit& emit : emits) sink.OnEmit(std::move(emit));
      absl::SleepFor(std::max(pause, absl::Microseconds(100)));
    }
  }

  void Take(const Event& event, std::vector<Reject>& rejects) {
    if (const auto* arrived = std::get_if<RequestArrived>(&event)) {
      const Request& request = arrived->request;
      requests_.push_back(request);
      if (running_.size() + static_cast<size_t>(request.n) > max_running) {
        rejects.push_back({request.id, absl::ResourceExhaustedError("full"), absl::Seconds(3)});
        return;
      }
      for (int i = 0; i < request.n; ++i) {
        running_[{request.id, i}] = {request, script_(request, i), 0};
      }
    } else if (const auto* cancelled = std::get_if<RequestCancelled>(&event)) {
      std::erase_if(running_, [&](const auto& entry) {
        return entry.first.first == cancelled->id &&
               (!cancelled->choice || *cancelled->choice == entry.first.second);
      });
    }
  }

  Emit Next(const Key& key, Choice& choice) {
    Emit emit;
    emit.request = key.first;
    emit.choice = key.second;
    const SamplingParams& sampling = choice.request.sampling;
    if (choice.given == 0) {
      emit.cached_prompt_tokens = static_cast<int32_t>(choice.request.prompt.size()) - 1;
      for (size_t i = 1; sampling.prompt_logprobs && i < choice.request.prompt.size(); ++i) {
        emit.prompt_logprobs.push_back({-0.5f, {{choice.request.prompt[i], -0.5f}}});
      }
    }
    const auto limit = static_cast<size_t>(choice.request.max_tokens);
    const bool ends = choice.given == choice.tokens.size();  // as by an end token: nothing to show
    if (choice.given < std::min(limit, choice.tokens.size())) {
      emit.tokens = {choice.tokens[choice.given++]};
      if (sampling.top_logprobs >= 0) {
        TokenLogprobs logprobs{-1.0f, {}};
        for (int32_t i = 0; i < sampling.top_logprobs; ++i) {
          logprobs.top.emplace_back(300 + i, -1.0f - static_cast<float>(i));
        }
        emit.logprobs = {logprobs};
      }
    }
    if (!fail_after_tokens.ok() && choice.given == 2) {
      emit.finish = FinishReason::kError;
      emit.error = fail_after_tokens;
    } else if (choice.given >= limit) {
      emit.finish = FinishReason::kLength;
    } else if (ends) {
      emit.finish = FinishReason::kStop;
    }
    return emit;
  }

  const Script script_;
  std::vector<Event> events_;
  std::map<Key, Choice> running_;
  std::vector<Request> requests_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace shoal::testing
