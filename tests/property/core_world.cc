// SPDX-License-Identifier: Apache-2.0
// What happens in a World: requests, work, time.
#include "tests/property/core_world.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace shoal::testing {

void WorldCounts::Add(const WorldCounts& other) {
  finished += other.finished;
  failed += other.failed;
  rejected += other.rejected;
  cancelled += other.cancelled;
  epochs += other.epochs;
  losses += other.losses;
  returns += other.returns;
  pauses += other.pauses;
  rewinds += other.rewinds;
  absent_steps += other.absent_steps;
  stale_events += other.stale_events;
  survived_texts += other.survived_texts;
  idle_plans += other.idle_plans;
  planned_ahead += other.planned_ahead;
  preemptions += other.preemptions;
  cache_hits += other.cache_hits;
  steps += other.steps;
}

World::World(uint64_t seed) : random_(seed) {
  config_.workers = 1 + static_cast<int>(Draw(5));
  config_.holders = 1 + static_cast<int>(Draw(std::min(config_.workers, 3)));
  config_.redundant_experts = Chance(30) ? static_cast<int>(Draw(6)) : 0;
  config_.n_routed_experts = {0, 8, 8};
  config_.block_tokens = 1 << Draw(4);
  config_.max_context = 20 + static_cast<int64_t>(Draw(40));
  config_.max_batch_rows = 1 + static_cast<int32_t>(Draw(Chance(50) ? 6 : 40));
  config_.max_running_sequences = 1 + static_cast<int32_t>(Draw(8));
  config_.max_queued_requests = 2 + static_cast<int32_t>(Draw(30));
  config_.prefix_cache = Chance(80);
  config_.step_timeout = absl::Seconds(20);
  config_.loading_timeout = absl::Seconds(50);
  peaceful_ = Chance(20);
  for (int i = 0; i < 3; ++i) {
    std::vector<int32_t>& prompt = shared_prompts_.emplace_back();
    for (uint64_t t = Draw(30); t > 0; --t) {
      prompt.push_back(static_cast<int32_t>(Draw(kVocabulary)));
    }
  }
  core_ = Core::Create(config_);
}

void World::Problem(const std::string& what) {
  problems.push_back(
      absl::StrCat("at ", absl::FormatDuration(now_ - absl::UnixEpoch()), ": ", what));
}

void World::Run() {
  for (int i = 0; i < config_.workers; ++i) StartProcess();
  for (int i = 0; i < 700 && problems.empty(); ++i) Act();
  if (problems.empty()) Settle();
  const ClusterSnapshot snapshot = core_->Snapshot(now_);
  counts.preemptions = snapshot.preemptions;
  counts.cache_hits = snapshot.prefix_cache_hits;
  counts.steps = snapshot.steps;
}

void World::Act() {
  const uint64_t dice = Draw(100);
  if (dice < 8) return ActOnRequests();
  if (dice < 11) return ActOnFaults();
  if (dice < 15) return PassTime(absl::Milliseconds(1 + static_cast<int64_t>(Draw(60))));
  // Mostly workers go on, each at its own pace.
  if (const std::optional<WorkerId> id = AnyWorker()) Progress(*id);
}

void World::ActOnRequests() {
  if (Chance(85)) return Arrive(DrawRequest());
  CancelOne();
}

// --- The end ---

// No more faults and no more requests: everything must come to its end.
void World::Settle() {
  settling_ = true;
  const bool drains = Chance(30);
  if (drains) {
    draining_ = true;
    Feed(DrainStarted{});
  }
  for (int round = 0; round < 600 && problems.empty(); ++round) {
    while (!unplugged_.empty() && problems.empty()) ReturnOne();
    while (static_cast<int>(workers_.size()) < config_.workers) StartProcess();
    while (DeliverAll() && problems.empty()) {
    }
    const ClusterSnapshot snapshot = core_->Snapshot(now_);
    const bool all_back = static_cast<int>(snapshot.workers.size()) == config_.workers &&
                          std::all_of(snapshot.workers.begin(), snapshot.workers.end(),
                                      [](const WorkerSnapshot& worker) {
                                        return worker.state == "serving" ||
                                               worker.state == "draining";
                                      });
    const bool done = all_back && snapshot.requests_running + snapshot.requests_waiting == 0;
    const bool healthy = std::none_of(workers_.begin(), workers_.end(), [](const auto& w) {
      return w.second.hangs || w.second.silent;
    });
    if (done && healthy) break;
    for (auto& [id, plug] : workers_) {
      if (done && plug.hangs) plug.silent = true;  // nobody waits for it: it must die otherwise
    }
    PassTime(absl::Milliseconds(round < 50 ? 100 : 700));
  }
  if (problems.empty()) CheckSettled(drains);
}

void World::CheckSettled(bool drains) {
  for (const auto& [id, client] : clients_) {
    for (const Choice& choice : client.choices) {
      if (!choice.ended && !client.rejected) Problem("request " + id.ToString() + " never ended");
    }
  }
  const ClusterSnapshot snapshot = core_->Snapshot(now_);
  for (const WorkerSnapshot& worker : snapshot.workers) {
    if (worker.state != "serving" && worker.state != "draining") {
      Problem(absl::StrCat("rank ", worker.rank.value(), " never came back: ", worker.state));
    }
    if (worker.blocks_used != 0 || worker.running_sequences != 0) {
      Problem(absl::StrCat("rank ", worker.rank.value(), " is left with ", worker.blocks_used,
                           " blocks and ", worker.running_sequences, " sequences"));
    }
  }
  if (snapshot.requests_running != 0 || snapshot.requests_waiting != 0) {
    Problem("requests are left");
  }
  if (snapshot.least_holders < config_.holders) Problem("too few holders with everybody back");
  if (!snapshot.paused.empty()) Problem("paused with everybody back");
  if (drains != drained_) Problem(drains ? "never drained" : "drained unasked");
  // Silence: nothing to do, nothing said.
  std::vector<Command> commands;
  core_->Step(Tick{}, now_, commands);
  if (!commands.empty()) Problem("an idle cluster was told something");
}

bool World::DeliverAll() {
  bool any = false;
  std::vector<WorkerId> ids;
  for (const auto& [id, plug] : workers_) ids.push_back(id);
  for (const WorkerId id : ids) {
    while (problems.empty() && Progress(id)) any = true;
  }
  return any;
}

// --- Clients ---

Request World::DrawRequest() {
  Request request;
  request.id = RequestId(++last_request_);
  request.prompt = shared_prompts_[Draw(shared_prompts_.size())];
  request.prompt.resize(Draw(request.prompt.size() + 1));
  for (uint64_t t = Draw(6); t > 0 || request.prompt.empty(); t -= t > 0) {
    request.prompt.push_back(static_cast<int32_t>(Draw(kVocabulary)));
  }
  const int64_t room = config_.max_context - static_cast<int64_t>(request.prompt.size());
  if (room < 1) request.prompt.resize(static_cast<size_t>(config_.max_context) - 1);
  request.max_tokens =
      static_cast<int32_t>(std::min<int64_t>(Draw(24), std::max<int64_t>(room, 1)));
  request.n = Chance(75) ? 1 : 1 + static_cast<int32_t>(Draw(4));
  request.priority = Chance(70) ? 0 : static_cast<int32_t>(Draw(3)) - 1;
  request.user = std::string(1, static_cast<char>('a' + Draw(3)));
  if (Chance(10)) request.deadline = now_ + absl::Milliseconds(static_cast<int64_t>(Draw(3000)));
  SamplingParams& sampling = request.sampling;
  sampling.seed = Draw(5);
  sampling.top_logprobs = Chance(30) ? 2 : -1;
  sampling.prompt_logprobs = Chance(15);
  if (Chance(70)) sampling.end_token_ids = {kEndToken, kVocabulary + 5};
  if (Chance(30)) sampling.min_tokens = static_cast<int32_t>(Draw(8));
  return request;
}

void World::Arrive(Request request) {
  Client& client = clients_[request.id];
  client.request = request;
  const bool nothing_to_compute =
      request.max_tokens == 0 && (request.prompt.size() == 1 || !request.sampling.prompt_logprobs);
  for (int32_t i = 0; i < request.n; ++i) {
    Choice& choice = client.choices.emplace_back();
    choice.reference = ComputeAlone(request, i);
    if (nothing_to_compute) choice.reference.prompt_logprobs.clear();
    choice.began = epoch_;
  }
  Feed(RequestArrived{std::move(request)});
}

void World::CancelOne() {
  std::vector<RequestId> live;
  for (const auto& [id, client] : clients_) {
    const auto ended = [](const Choice& c) { return c.ended; };
    if (!std::all_of(client.choices.begin(), client.choices.end(), ended)) live.push_back(id);
  }
  if (live.empty()) return;
  Client& client = clients_[live[Draw(live.size())]];
  std::optional<int32_t> which;
  if (Chance(50)) which = static_cast<int32_t>(Draw(client.choices.size()));
  for (size_t i = 0; i < client.choices.size(); ++i) {
    if (!which.has_value() || static_cast<size_t>(*which) == i) client.choices[i].cancelled = true;
  }
  Feed(RequestCancelled{client.request.id, which});
  for (const Choice& choice : client.choices) {
    if (choice.cancelled && !choice.ended) Problem("a cancelled choice goes on");
  }
}

// --- Workers ---

bool World::Progress(WorkerId id) {
  auto it = workers_.find(id);
  if (it == workers_.end() || it->second.hangs || it->second.silent) return false;
  FakeWorker& worker = *it->second.worker;
  if (!worker.outbox.empty() && Chance(50)) return Deliver(worker);
  if (worker.loading() && Chance(settling_ ? 60 : 10)) {
    worker.FinishLoading();
    return true;
  }
  const bool in_step = worker.in_step();
  const size_t said = worker.outbox.size();
  if (worker.Work(*this, now_)) {
    if (in_step && worker.outbox.size() > said) {
      const auto& done = std::get<StepDone>(worker.outbox.back());
      if (done.epoch == epoch_ && done.status.ok()) {
        StepCheck& step = steps_[done.step];
        step.rows += worker.rows_of_last_step();
        if (worker.rows_of_last_step() == 0) ++counts.idle_plans;
        if (++step.executed == size_ && step.rows == 0) Problem("a step without any rows");
      }
    }
    return true;
  }
  if (!worker.outbox.empty()) return Deliver(worker);
  if (worker.in_step() && SeesDeadPeer(worker) && Chance(20)) {
    worker.Break(absl::UnavailableError("layer 3: a peer is gone"));
    return true;
  }
  return false;
}

bool World::Deliver(FakeWorker& worker) {
  const Event event = std::move(worker.outbox.front());
  worker.outbox.pop_front();
  if (Chance(5) && !peaceful_) late_.push_back(event);
  Feed(event);
  if (Chance(5)) FeedStale(event);  // twice
  return true;
}

void World::PassTime(absl::Duration time) {
  // Heartbeats come every 50 ms, whatever the length of the jump.
  now_ += time;
  GiveUpWaiting();
  std::vector<WorkerId> alive;
  for (const auto& [id, plug] : workers_) {
    if (!plug.silent) alive.push_back(id);
  }
  for (const WorkerId id : alive) Feed(Heartbeat{id});
  Feed(Tick{});
}

}  // namespace shoal::testing
