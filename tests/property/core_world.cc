// SPDX-License-Identifier: Apache-2.0
#include "tests/property/core_world.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace shoal::testing {

World::World(uint64_t seed) : random_(seed) {
  config_.workers = 1 + static_cast<int>(Draw(4));
  config_.n_routed_experts = {0, 8, 8};
  config_.block_tokens = 1 << Draw(4);
  config_.max_context = 20 + static_cast<int64_t>(Draw(40));
  config_.max_batch_rows = 1 + static_cast<int32_t>(Draw(Chance(50) ? 6 : 40));
  config_.max_running_sequences = 1 + static_cast<int32_t>(Draw(8));
  config_.max_queued_requests = 2 + static_cast<int32_t>(Draw(30));
  config_.prefix_cache = Chance(80);
  config_.replay_on_failure = Chance(50);
  config_.step_timeout = absl::Seconds(60);
  config_.loading_timeout = absl::Seconds(200);
  peaceful_ = Chance(40);
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
  for (int i = 0; i < config_.workers; ++i) Join();
  for (int i = 0; i < 400 && problems.empty(); ++i) Act();
  if (problems.empty()) Settle();
  const ClusterSnapshot snapshot = core_->Snapshot(now_);
  counts.preemptions = snapshot.preemptions;
  counts.cache_hits = snapshot.prefix_cache_hits;
  counts.steps = snapshot.steps;
}

// --- What happens ---

void World::Act() {
  const uint64_t dice = Draw(100);
  if (dice < 12) return ActOnRequests();
  if (dice < 14) return ActOnFaults();
  if (dice < 20) return PassTime(absl::Milliseconds(1 + static_cast<int64_t>(Draw(60))));
  // Mostly workers go on, each at its own pace.
  if (workers_.empty()) return;
  auto it = workers_.begin();
  std::advance(it, Draw(workers_.size()));
  Progress(it->first);
}

void World::ActOnRequests() {
  if (Chance(85)) return Arrive(DrawRequest());
  CancelOne();
}

void World::ActOnFaults() {
  if (Chance(60)) return Bogus();
  if (peaceful_ || workers_.empty()) return;
  auto it = workers_.begin();
  std::advance(it, Draw(workers_.size()));
  Plug& plug = it->second;
  switch (Draw(5)) {
    case 0: {  // dies, and the link sees it
      const WorkerId id = it->first;
      workers_.erase(it);
      ++counts.faults;
      Feed(WorkerLost{id, "connection closed"});
      if (Chance(70)) Join();
      break;
    }
    case 1:
      plug.silent = plug.blamed = true;
      break;
    case 2:
      if (Chance(30)) plug.hangs = plug.blamed = true;
      break;
    case 3:  // a step breaks
      if (plug.silent || plug.hangs || !plug.worker->HasPlan()) break;
      if (Chance(50)) {
        plug.worker->Execute(absl::DeadlineExceededError("layer 3: nothing from rank 0"));
      } else {
        plug.blamed = true;
        plug.worker->Execute(absl::InternalError("device lost"));
      }
      break;
    default:
      if (workers_.size() < 7) Join();  // a standby, or a replacement
  }
}

// Events that no sane party sends; none of them may disturb anybody else.
void World::Bogus() {
  const WorkerId stranger(1'000'000 + static_cast<int64_t>(Draw(9)));
  const auto some_worker = [&] {
    if (workers_.empty() || Chance(30)) return stranger;
    auto it = workers_.begin();
    std::advance(it, Draw(workers_.size()));
    return it->first;
  };
  switch (Draw(9)) {
    case 0:
      return Feed(WorkerLost{stranger, "who?"});
    case 1:
      return Feed(Heartbeat{stranger});
    case 2:
      return Feed(WorkerReady{
          some_worker(), Epoch(static_cast<int64_t>(Draw(3)) - 1 + (epoch_.value() > 3 ? 0 : 77))});
    case 3: {  // a report of another epoch, or of a step long gone or never planned
      StepDone done;
      done.worker = some_worker();
      done.epoch = Chance(50) ? Epoch(epoch_.value() - 1) : epoch_;
      done.step = StepId(Chance(50) ? last_planned_.value() + 1 + static_cast<int64_t>(Draw(5))
                                    : last_planned_.value() - 2 - static_cast<int64_t>(Draw(9)));
      done.tokens.push_back(SampledToken{SequenceId(1), 5, 5, std::nullopt});
      if (done.epoch != epoch_ && Chance(50)) done.status = absl::InternalError("old");
      return Feed(done);
    }
    case 4:
      return Feed(RequestCancelled{RequestId(-4), std::nullopt});
    case 5:
      if (clients_.empty()) return;
      return Feed(RequestCancelled{clients_.begin()->first,
                                   Chance(50) ? -1 : clients_.begin()->second.request.n + 3});
    case 6: {  // refused on arrival
      WorkerJoined joined{WorkerId(2'000'000 + ++last_worker_), "nowhere", 1, 0, std::nullopt};
      if (Chance(50)) {
        joined.cache_blocks = 10;
        joined.wanted_rank = RankId(Chance(50) ? -1 : config_.workers);
      }
      return Feed(joined);
    }
    case 7: {
      Request request = DrawRequest();
      switch (Draw(4)) {
        case 0:
          request.prompt.clear();
          break;
        case 1:
          request.max_tokens = -1;
          break;
        case 2:
          request.n = Chance(50) ? 0 : kMaxChoices + 1;
          break;
        default:
          request.max_tokens = static_cast<int32_t>(config_.max_context) + 1;
      }
      request.id = RequestId(++last_request_);
      Client& client = clients_[request.id];
      client.request = request;
      Feed(RequestArrived{request});
      if (!client.rejected) Problem("an absurd request was let in");
      return;
    }
    default:
      if (clients_.empty()) return;
      // The same id again, while it lives.
      for (const auto& [id, client] : clients_) {
        if (client.rejected || std::all_of(client.choices.begin(), client.choices.end(),
                                           [](const Choice& c) { return c.ended; })) {
          continue;
        }
        return Feed(RequestArrived{client.request});
      }
  }
}

// No more faults and no more requests: everything must come to its end.
void World::Settle() {
  const bool drains = Chance(30);
  if (drains) {
    draining_ = true;
    Feed(DrainStarted{});
  }
  for (int round = 0; round < 400 && problems.empty(); ++round) {
    while (static_cast<int>(workers_.size()) < config_.workers) Join();
    while (DeliverAll() && problems.empty()) {
    }
    const ClusterSnapshot snapshot = core_->Snapshot(now_);
    const bool done =
        snapshot.serving && snapshot.requests_running + snapshot.requests_waiting == 0;
    if (done && std::none_of(workers_.begin(), workers_.end(),
                             [](const auto& w) { return w.second.hangs || w.second.silent; })) {
      break;
    }
    for (auto& [id, plug] : workers_) {
      if (done && plug.hangs) plug.silent = true;  // nobody waits for it: it must die otherwise
    }
    PassTime(absl::Milliseconds(round < 50 ? 100 : 2000));
  }
  if (!problems.empty()) return;
  for (const auto& [id, client] : clients_) {
    for (const Choice& choice : client.choices) {
      if (!choice.ended && !client.rejected) Problem("request " + id.ToString() + " never ended");
    }
  }
  const ClusterSnapshot snapshot = core_->Snapshot(now_);
  for (const WorkerSnapshot& worker : snapshot.workers) {
    if (worker.blocks_used != 0 || worker.running_sequences != 0) {
      Problem(absl::StrCat("rank ", worker.rank.value(), " is left with ", worker.blocks_used,
                           " blocks and ", worker.running_sequences, " sequences"));
    }
  }
  if (snapshot.requests_running != 0 || snapshot.requests_waiting != 0)
    Problem("requests are left");
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
    choice.faults_at_start = counts.faults;
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

void World::Join() {
  const WorkerId id(++last_worker_);
  // Sometimes too few blocks for the longest request, never for all requests.
  const int64_t for_longest =
      (config_.max_context + config_.block_tokens - 1) / config_.block_tokens;
  const int64_t blocks = std::max<int64_t>(1, for_longest + static_cast<int64_t>(Draw(8)) - 2);
  Plug& plug = workers_[id];
  plug.worker = std::make_unique<FakeWorker>(id, blocks, config_, &problems);
  WorkerJoined joined{id, "host", id.value(), blocks, std::nullopt};
  if (Chance(10)) joined.wanted_rank = RankId(static_cast<int32_t>(Draw(config_.workers)));
  plug.blamed = joined.wanted_rank.has_value();  // another may hold it
  Feed(joined);
}

bool World::Progress(WorkerId id) {
  auto it = workers_.find(id);
  if (it == workers_.end() || it->second.hangs || it->second.silent) return false;
  FakeWorker& worker = *it->second.worker;
  if (worker.HasPlan() && (worker.outbox.empty() || Chance(50))) {
    const size_t before = worker.outbox.size();
    const int rows = worker.Execute(absl::OkStatus());
    const auto& done = std::get<StepDone>(worker.outbox[before]);
    if (done.epoch == epoch_) {
      StepCheck& step = steps_[done.step];
      step.rows += rows;
      if (!done.status.ok()) return true;
      if (rows == 0) ++counts.idle_plans;
      if (++step.executed == config_.workers && step.rows == 0) Problem("a step without any rows");
    }
    return true;
  }
  if (worker.outbox.empty()) return false;
  const Event event = std::move(worker.outbox.front());
  worker.outbox.pop_front();
  if (const auto* done = std::get_if<StepDone>(&event)) {
    if (done->epoch == epoch_ && done->status.ok()) ++steps_[done->step].reported;
    if (done->epoch == epoch_ && !done->status.ok()) ++counts.faults;
  }
  Feed(event);
  if (Chance(5)) Feed(event);  // twice
  return true;
}

void World::PassTime(absl::Duration time) {
  // Heartbeats come every 50 ms, whatever the length of the jump.
  now_ += time;
  std::vector<WorkerId> alive;
  for (const auto& [id, plug] : workers_) {
    if (!plug.silent) alive.push_back(id);
  }
  for (const WorkerId id : alive) Feed(Heartbeat{id});
  Feed(Tick{});
}

}  // namespace shoal::testing
