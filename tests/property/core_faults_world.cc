// SPDX-License-Identifier: Apache-2.0
#include "tests/property/core_faults_world.h"

#include <algorithm>
#include <type_traits>
#include <variant>

#include "absl/strings/str_cat.h"
#include "engine/base/connect_time.h"
#include "tests/unit/core_transcript.h"

namespace shoal::testing {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(100);
constexpr absl::Duration kPhase = absl::Seconds(100);  // of the first faults, then of the second
constexpr int kMostFirst = 2;                          // times DrawLinks, cut and lossy
constexpr int kMostSecond = 1;
constexpr absl::Duration kHealing = absl::Minutes(6);  // no longer do we wait for all to serve
constexpr int kLargeRows = 4;  // of one sequence: a step with so many is a large one

}  // namespace

bool Faults::Touch(int rank) const {
  const auto ends_here = [&](const Link& link) {
    return link.first == rank || link.second == rank;
  };
  return hung == rank || std::any_of(cut.begin(), cut.end(), ends_here) ||
         std::any_of(lossy.begin(), lossy.end(), ends_here);
}

void Faults::Add(const Faults& more) {
  cut.insert(more.cut.begin(), more.cut.end());
  lossy.insert(more.lossy.begin(), more.lossy.end());
  if (more.hung.has_value()) hung = more.hung;
}

std::string Faults::Text() const {
  std::string text;
  for (const auto& [a, b] : cut) absl::StrAppend(&text, " cut ", a, "-", b);
  for (const auto& [a, b] : lossy) absl::StrAppend(&text, " lossy ", a, "-", b);
  if (hung.has_value()) absl::StrAppend(&text, " hung ", *hung);
  return text.empty() ? " none" : text;
}

World::World(uint32_t seed)
    : seed_(seed), random_(seed), ranks_(4 + seed % 4), here_(ranks_), out_(ranks_) {
  CoreConfig config = Transcript::Small(ranks_);
  config.holders = 2 + Random(2);
  config.step_timeout = kStepTimeout;
  config.heartbeat_timeout = absl::Seconds(1);
  config.max_queued_requests = 1000;
  core_ = Core::Create(config);
  corrupt_ = Random(2);
  small_pass_ = Random(2);
  hung_connects_ = Random(2);
}

Faults World::DrawFaults(int most, bool may_hang) {
  Faults faults;
  DrawLinks(most, faults.cut);
  DrawLinks(most, faults.lossy);
  if (may_hang && Random(3) == 0) faults.hung = Random(ranks_);
  return faults;
}

// Up to so many times: a link, or all of a rank.
void World::DrawLinks(int most, std::set<Link>& links) {
  for (int left = Random(most + 1); left > 0; --left) {
    const int rank = Random(ranks_), only = Random(ranks_);
    const bool all = Random(3) == 0;
    for (int peer = 0; peer < ranks_; ++peer) {
      if (peer != rank && (all || peer == only)) links.insert(std::minmax(rank, peer));
    }
  }
}

bool World::Possible(const Faults& faults) const {
  for (uint32_t without = 0; without + 1 < 1u << ranks_; ++without) {
    const auto is_out = [&](int rank) { return (without >> rank & 1) == 1; };
    const auto is_avoided = [&](const Link& link) {
      return is_out(link.first) || is_out(link.second);
    };
    std::vector<RankId> out;
    for (int rank = 0; rank < ranks_; ++rank) {
      if (is_out(rank)) out.push_back(RankId(rank));
    }
    if ((!faults.hung.has_value() || is_out(*faults.hung)) &&
        std::all_of(faults.cut.begin(), faults.cut.end(), is_avoided) &&
        std::all_of(faults.lossy.begin(), faults.lossy.end(), is_avoided) &&
        placement_->CheckWithout(out).ok()) {
      return true;
    }
  }
  return false;
}

Outcome World::Run() {
  for (int rank = 0; rank < ranks_; ++rank) Join(rank, absl::ZeroDuration());
  RunFor(absl::Seconds(5));
  const Faults first = DrawFaults(kMostFirst, true);
  Faults second = DrawFaults(kMostSecond, !first.hung.has_value());
  const bool first_stay = Random(2);
  if (first_stay) second.Add(first);
  all_faults_ = first;
  all_faults_.Add(second);
  Outcome outcome;
  outcome.possible = Possible(first) && Possible(second);
  outcome.world = absl::StrCat("seed ", seed_, ": ", ranks_, " ranks,", corrupt_ ? " corrupt," : "",
                               small_pass_ ? " small messages pass," : "", " faults", first.Text(),
                               ", then", second.Text());
  LongestPause();
  epochs_ = 0;
  Begin(first);
  RunFor(kPhase);
  Begin(second);
  RunFor(kPhase);
  outcome.longest_pause = LongestPause();
  outcome.longest_out = *std::max_element(out_.begin(), out_.end());
  outcome.wrongly_evicted = wrongly_evicted_;
  outcome.epochs = epochs_;
  const absl::Time healed = now_;
  Begin(Faults());
  RunFor(3 * kStepTimeout);  // some step may be failing
  while (!AllServe() && now_ - healed < kHealing) RunTick();
  outcome.healed_after = now_ - healed;
  outcome.pause_when_healing = LongestPause();
  RunFor(absl::Seconds(20));
  outcome.pause_when_healed = LongestPause();
  return outcome;
}

void World::Begin(const Faults& faults) {
  if (faults_.hung != faults.hung) {
    for (Event& event : of_the_hung_) After(Jitter(50), std::move(event));
    of_the_hung_.clear();
  }
  faults_ = faults;
}

void World::RunFor(absl::Duration time) {
  for (const absl::Time end = now_ + time; now_ < end;) RunTick();
}

// A request arrives every half second, most of them small.
void World::RunTick() {
  const absl::Time end = now_ + kTick;
  while (!events_.empty() && events_.begin()->first <= end) {
    const Event event = std::move(events_.begin()->second);
    now_ = std::max(now_, events_.begin()->first);
    events_.erase(events_.begin());
    Do(event);
  }
  now_ = end;
  for (int rank = 0; rank < ranks_; ++rank) {
    if (here_[rank].has_value()) Do(Heartbeat{*here_[rank]});
  }
  Do(Tick{});
  if (absl::ToUnixMillis(now_) % 500 == 0) {
    Do(RequestArrived{MakeRequest(++last_request_, Random(3) == 0 ? 7 : 2, 1)});
  }
  for (const WorkerSnapshot& worker : core_->Snapshot(now_).workers) {
    const int rank = worker.rank.value();
    if (worker.state == "left out" && !all_faults_.Touch(rank)) out_[rank] += kTick;
  }
}

absl::Duration World::LongestPause() {
  const absl::Duration longest = std::max(longest_pause_, now_ - last_finish_);
  longest_pause_ = absl::ZeroDuration();
  last_finish_ = now_;
  return longest;
}

bool World::AllServe() const {
  const ClusterSnapshot snapshot = core_->Snapshot(now_);
  return std::all_of(snapshot.workers.begin(), snapshot.workers.end(),
                     [](const WorkerSnapshot& worker) { return worker.state == "serving"; });
}

void World::Do(const Event& event) {
  const bool by_the_hung = std::visit(
      [&]<typename E>(const E& e) {
        if constexpr (requires { e.worker; } && !std::is_same_v<E, Heartbeat>) {
          return faults_.hung.has_value() && rank_of_.at(e.worker) == *faults_.hung;
        }
        return false;
      },
      event);
  if (by_the_hung) {
    of_the_hung_.push_back(event);
    return;
  }
  if (const auto* joined = std::get_if<WorkerJoined>(&event)) {
    here_[joined->wanted_rank->value()] = joined->worker;
  }
  std::vector<Command> commands;
  core_->Step(event, now_, commands);
  for (const Command& command : commands) {
    std::visit([&](const auto& c) { On(c); }, command);
  }
}

void World::Join(int rank, absl::Duration delay) {
  const WorkerId worker(++last_worker_);
  rank_of_[worker] = rank;
  WorkerJoined joined{worker, absl::StrCat("host", rank), 100 + rank, 100, RankId(rank)};
  joined.boot_nonce = 100 + rank;
  After(delay, std::move(joined));
}

void World::On(const EvictWorker& evict) {
  const int rank = rank_of_.at(evict.worker);
  here_[rank].reset();
  if (!all_faults_.Touch(rank)) ++wrongly_evicted_;
  Join(rank, absl::Seconds(1));
}

void World::On(const Emit& emit) {
  if (emit.finish == FinishReason::kNone) return;
  longest_pause_ = std::max(longest_pause_, now_ - last_finish_);
  last_finish_ = now_;
}

void World::On(const AssignRank& assign) {
  if (assign.epoch != epoch_) {
    ++epochs_;
    plans_.clear();
    busy_until_ = now_;
  }
  epoch_ = assign.epoch;
  members_ = assign.members;
  placement_ = assign.placement;
  std::vector<RankId> unreached;
  for (int peer = 0; peer < ranks_; ++peer) {
    if (!CanConnect(assign.rank.value(), peer)) unreached.push_back(RankId(peer));
  }
  if (unreached.empty()) {
    After(absl::Milliseconds(50) + Jitter(50), WorkerReady{assign.worker, assign.epoch});
  } else {
    After(ConnectTime(ranks_) + Jitter(200),
          ConnectFailed{assign.worker, assign.epoch, absl::DeadlineExceededError("no way"),
                        std::move(unreached)});
  }
}

bool World::CanConnect(int rank, int peer) const {
  if (rank == peer || !IsMember(peer)) return true;
  return !faults_.cut.contains(std::minmax(rank, peer)) && (hung_connects_ || faults_.hung != peer);
}

void World::On(const SendPlan& send) {
  std::vector<SendPlan>& plans = plans_[send.plan.step];
  plans.push_back(send);
  const auto is_member = [](const std::optional<WorkerId>& worker) { return worker.has_value(); };
  const auto members = std::count_if(members_->begin(), members_->end(), is_member);
  if (static_cast<int64_t>(plans.size()) == members) RunStep(plans);
}

StepDone World::Report(const SendPlan& send) const {
  StepDone done;
  done.worker = send.worker;
  done.epoch = send.plan.epoch;
  done.step = send.plan.step;
  return done;
}

void World::RunStep(const std::vector<SendPlan>& plans) {
  const absl::Duration start = std::max(now_, busy_until_) - now_;
  busy_until_ = now_ + start + absl::Milliseconds(20);
  bool large = false;
  for (const SendPlan& send : plans) {
    for (const SequenceWork& work : send.plan.plan.work) large |= work.count >= kLargeRows;
  }
  const auto is_hit = [&](const Link& link) {
    return IsMember(link.first) && IsMember(link.second);
  };
  if ((faults_.hung.has_value() && IsMember(*faults_.hung)) ||
      std::any_of(faults_.cut.begin(), faults_.cut.end(), is_hit) ||
      ((large || !small_pass_) &&
       std::any_of(faults_.lossy.begin(), faults_.lossy.end(), is_hit))) {
    return FailStep(plans, start, large);
  }
  for (const SendPlan& send : plans) {
    StepDone done = Report(send);
    for (const SequenceWork& work : send.plan.plan.work) {
      if (!work.sample) continue;
      SampledToken& token = done.tokens.emplace_back();
      token.sequence = work.id;
      token.position = work.start + work.count;
      token.token = 20;
    }
    After(start + absl::Milliseconds(15) + Jitter(5), std::move(done));
  }
}

std::vector<std::vector<RankId>> World::Missing(const std::set<Link>& links, bool hung) {
  std::vector<std::vector<RankId>> missing(ranks_);
  for (const auto& [a, b] : links) {
    if (!IsMember(a) || !IsMember(b) || faults_.hung == a || faults_.hung == b) continue;
    const int direction = Random(3);  // or both
    if (direction != 0) missing[a].push_back(RankId(b));
    if (direction != 1) missing[b].push_back(RankId(a));
  }
  for (int rank = 0; hung && faults_.hung.has_value() && rank < ranks_; ++rank) {
    if (IsMember(*faults_.hung) && rank != *faults_.hung) {
      missing[rank].push_back(RankId(*faults_.hung));
    }
  }
  return missing;
}

// What is corrupt is said at once. Whoever misses a message goes no further, and so the others miss
// one of it, in the next round; all say so when the step's time is over.
void World::FailStep(const std::vector<SendPlan>& plans, absl::Duration start, bool large) {
  const std::set<Link> lossy = large || !small_pass_ ? faults_.lossy : std::set<Link>();
  const std::vector<std::vector<RankId>> bent =
      corrupt_ ? Missing(lossy, false) : std::vector<std::vector<RankId>>(ranks_);
  const auto misses_some = [](const std::vector<RankId>& peers) { return !peers.empty(); };
  const bool at_once = std::any_of(bent.begin(), bent.end(), misses_some);
  std::set<Link> silent = faults_.cut;
  if (!corrupt_) silent.insert(lossy.begin(), lossy.end());
  const std::vector<std::vector<RankId>> missing = Missing(silent, true);
  std::vector<RankId> stuck;
  for (int rank = 0; rank < ranks_; ++rank) {
    if (!missing[rank].empty()) stuck.push_back(RankId(rank));
  }
  for (const SendPlan& send : plans) {
    const int rank = rank_of_.at(send.worker);
    StepDone done = Report(send);
    if (!bent[rank].empty()) {
      done.status = absl::DataLossError("a corrupt message");
      done.blamed = {bent[rank][Random(static_cast<int>(bent[rank].size()))]};
      After(start + Jitter(20), std::move(done));
    } else if (at_once) {
      done.status = absl::AbortedError("the epoch is over");
      After(start + absl::Milliseconds(60) + Jitter(20), std::move(done));
    } else {
      done.status = absl::DeadlineExceededError("late");
      done.blamed = missing[rank].empty() ? stuck : missing[rank];
      After(start + kStepTimeout + Jitter(30), std::move(done));
    }
  }
}

}  // namespace shoal::testing
