// SPDX-License-Identifier: Apache-2.0
// What goes wrong in a World: deaths, stalls, broken steps and connections, late and forged messages;
// and how processes come and come back.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/property/core_world.h"

namespace shoal::testing {

// --- What workers see of each other ---

bool World::Connected(Epoch epoch, const Members& members) {
  return std::all_of(members.begin(), members.end(), [&](const std::optional<WorkerId>& member) {
    if (!member.has_value()) return true;
    const auto it = workers_.find(*member);
    return it != workers_.end() && it->second.worker->epoch() == epoch;
  });
}

void World::Contribute(WorkerId worker, Epoch epoch, StepId step) {
  contributions_[{epoch, step}].insert(worker);
}

bool World::Complete(Epoch epoch, StepId step, const Members& members) {
  const std::set<WorkerId>& given = contributions_[{epoch, step}];
  return std::all_of(members.begin(), members.end(), [&](const std::optional<WorkerId>& member) {
    return !member.has_value() || given.contains(*member);
  });
}

bool World::SeesDeadPeer(const FakeWorker& worker) const {
  return std::any_of(worker.members().begin(), worker.members().end(), [&](const auto& member) {
    return member.has_value() && !workers_.contains(*member);
  });
}

// Waiting has a deadline: of a step, and of connecting to peers, after which a worker dials anew.
void World::GiveUpWaiting() {
  std::vector<WorkerId> redial;
  for (auto& [id, plug] : workers_) {
    FakeWorker& worker = *plug.worker;
    if (plug.hangs || plug.silent) continue;
    if (worker.in_step() &&
        now_ - worker.stuck_since() >= config_.step_timeout - absl::Seconds(3)) {
      worker.Break(absl::DeadlineExceededError("layer 3: nothing from a peer"));
    }
    if (worker.connecting() && worker.loaded() &&
        now_ - worker.stuck_since() > absl::Seconds(12)) {
      redial.push_back(id);
    }
  }
  for (const WorkerId id : redial) Lose(id, false);
}

// --- Faults ---

std::optional<WorkerId> World::AnyWorker() {
  if (workers_.empty()) return std::nullopt;
  auto it = workers_.begin();
  std::advance(it, Draw(workers_.size()));
  return it->first;
}

void World::ActOnFaults() {
  if (Chance(40)) return Bogus();
  if (peaceful_) return;
  if (!unplugged_.empty() && Chance(50)) return ReturnOne();
  const std::optional<WorkerId> id = AnyWorker();
  if (!id.has_value()) return StartProcess();
  Plug& plug = workers_.at(*id);
  switch (Draw(9)) {
    case 0:  // dies, and the link sees it; sometimes another one with it
    case 1: {
      Lose(*id, true);
      const std::optional<WorkerId> other = AnyWorker();
      if (other.has_value() && Chance(30)) Lose(*other, true);
      if (Chance(70)) StartProcess();
      break;
    }
    case 2:  // the connection breaks, the process lives
      Lose(*id, false);
      break;
    case 3:  // stops: until it is found silent, or wakes up
    case 4:
      plug.silent = plug.blamed = true;
      break;
    case 5:
      plug.silent = false;  // never too late
      break;
    case 6:
      if (Chance(20)) plug.hangs = plug.blamed = true;
      break;
    case 7:  // a step breaks
      if (plug.silent || plug.hangs || !plug.worker->in_step()) break;
      if (Chance(50)) {
        plug.worker->Break(absl::DeadlineExceededError("layer 3: nothing from rank 0"));
      } else {
        plug.blamed = true;
        plug.worker->Break(absl::InternalError("device lost"));
      }
      break;
    default:
      if (workers_.size() < 8) StartProcess();  // a standby, or a replacement
  }
}

void World::StartProcess() {
  // Sometimes too few blocks for the longest request, never for all requests.
  const int64_t for_longest =
      (config_.max_context + config_.block_tokens - 1) / config_.block_tokens;
  const int64_t blocks = std::max<int64_t>(1, for_longest + static_cast<int64_t>(Draw(8)) - 2);
  Plugin(std::make_unique<FakeWorker>(blocks, config_, &problems),
         std::string(1, static_cast<char>('a' + Draw(3))));
}

void World::Plugin(std::unique_ptr<FakeWorker> worker, std::string host) {
  const WorkerId id(++last_worker_);
  for (Event& event : worker->Connect(id)) late_.push_back(std::move(event));
  WorkerJoined joined{id, host, id.value(), worker->blocks(), worker->rank()};
  if (!joined.wanted_rank.has_value() && Chance(10)) {
    joined.wanted_rank = RankId(static_cast<int32_t>(Draw(config_.workers)));
  }
  joined.rank_fixed = joined.wanted_rank.has_value() && Chance(5);
  Plug& plug = workers_[id];
  plug.worker = std::move(worker);
  plug.host = std::move(host);
  plug.blamed = joined.rank_fixed;  // another may hold it
  Feed(joined);
}

std::unique_ptr<FakeWorker> World::Unplug(WorkerId id) {
  auto it = workers_.find(id);
  std::unique_ptr<FakeWorker> worker = std::move(it->second.worker);
  for (Event& event : std::exchange(worker->outbox, {})) {
    if (Chance(50)) late_.push_back(std::move(event));
  }
  ++counts.losses;
  workers_.erase(it);
  return worker;
}

void World::Lose(WorkerId id, bool dies) {
  Plug plug;
  plug.host = workers_.at(id).host;
  plug.worker = Unplug(id);
  if (!dies) unplugged_.push_back(std::move(plug));
  Feed(WorkerLost{id, dies ? "killed" : "connection reset"});
}

void World::ReturnOne() {
  const auto it = unplugged_.begin() + static_cast<int64_t>(Draw(unplugged_.size()));
  Plug plug = std::move(*it);
  unplugged_.erase(it);
  ++counts.returns;
  Plugin(std::move(plug.worker), std::move(plug.host));
}

// --- Nonsense ---

// Events that no sane party sends, or that come too late; none of them may disturb anybody.
void World::Bogus() {
  if (!late_.empty() && Chance(60)) {
    const auto it = late_.begin() + static_cast<int64_t>(Draw(late_.size()));
    const Event event = std::move(*it);
    late_.erase(it);
    return FeedStale(event);
  }
  const WorkerId stranger(1'000'000 + static_cast<int64_t>(Draw(9)));
  const WorkerId worker = Chance(70) ? AnyWorker().value_or(stranger) : stranger;
  switch (Draw(9)) {
    case 0:
      return FeedStale(WorkerLost{stranger, "who?"});
    case 1:
      return FeedStale(Heartbeat{worker});
    case 2:
      return FeedStale(WorkerReady{worker, Epoch(epoch_.value() + (Chance(50) ? 1 : -1))});
    case 3:
      return BogusReport(worker);
    case 4:
      return FeedStale(RequestCancelled{RequestId(-4), std::nullopt});
    case 5:
      if (clients_.empty()) return;
      return FeedStale(RequestCancelled{
          clients_.begin()->first, Chance(50) ? -1 : clients_.begin()->second.request.n + 3});
    case 6: {  // refused on arrival
      WorkerJoined joined{WorkerId(2'000'000 + ++last_worker_), "nowhere", 1, 0, std::nullopt};
      if (Chance(50)) {
        joined.cache_blocks = 10;
        joined.wanted_rank = RankId(Chance(50) ? -1 : config_.workers);
      }
      return Feed(joined);
    }
    case 7:  // not asked, or said before
      if (formed_ && workers_.contains(worker) && !IsMember(worker)) return;
      return FeedStale(WorkerLoaded{worker});
    default:
      return BogusRequest();
  }
}

// A report of another epoch, of a step long gone or never planned, or by one that is no member.
void World::BogusReport(WorkerId worker) {
  StepDone done;
  done.worker = worker;
  done.epoch = Chance(60) ? Epoch(epoch_.value() + (Chance(20) ? 1 : -1)) : epoch_;
  done.step = StepId(Chance(50) ? last_planned_.value() + 1 + static_cast<int64_t>(Draw(5))
                                : last_planned_.value() - 2 - static_cast<int64_t>(Draw(9)));
  done.tokens.push_back(SampledToken{SequenceId(1), 5, 5, std::nullopt});
  if (Chance(30)) done.waiting_dispatch.resize(Draw(7), absl::InfiniteDuration());
  if (done.epoch != epoch_ && Chance(70)) {
    done.step = last_planned_;
    done.status = Chance(50) ? absl::InternalError("old") : absl::AbortedError("old");
  }
  FeedStale(done);
}

void World::BogusRequest() {
  if (Chance(50)) {  // the same id again, while it lives
    for (const auto& [id, client] : clients_) {
      if (client.rejected || std::all_of(client.choices.begin(), client.choices.end(),
                                         [](const Choice& c) { return c.ended; })) {
        continue;
      }
      return FeedStale(RequestArrived{client.request});
    }
  }
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
}

}  // namespace shoal::testing
