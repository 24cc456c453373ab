// SPDX-License-Identifier: Apache-2.0
#include "coordinator/sim/outage.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "coordinator/sim/random.h"
#include "coordinator/sim/world.h"
#include "engine/base/connect_time.h"
#include "spdlog/spdlog.h"

namespace shoal::sim {
namespace {

constexpr absl::Duration kOutageTime = absl::Seconds(60);
constexpr int kRequestsAtOnce = 4;

// What the longest pause of an outage is made of. Silence of a heart is found sooner.
constexpr absl::Duration kReportGrace =
    absl::Seconds(1);  // after the step's timeout, for who reports none
constexpr absl::Duration kAccusationGrace = absl::Milliseconds(300);
constexpr absl::Duration kTicks =
    absl::Milliseconds(200);  // of the coordinator's clock, and its heart's
constexpr absl::Duration kGoingOn = absl::Seconds(2);  // the epoch's connects, and its first steps
constexpr int kStepsInVain = 3;                        // before somebody is left out for them
absl::Duration LongestPause(Outage outage, const CoreConfig& core) {
  if (outage == Outage::kProcessStops || outage == Outage::kProcessesStopInTurn) {
    return core.heartbeat_timeout + kTicks + kGoingOn;
  }
  const absl::Duration pause = core.step_timeout + kReportGrace + ConnectTime(core.workers) +
                               kAccusationGrace + kTicks + kGoingOn;
  return outage == Outage::kLinkSwallows ? kStepsInVain * pause : pause;
}
// The unit was whole before; faults have ended: so soon it is again. The longest leave that began
// before, the third one, or the longest rest; and a try.
constexpr absl::Duration kComeback = absl::Seconds(60 + 15);
// Tries to let somebody in whom nobody reaches, in a minute: at once, after 5 s, after 15 s more;
// and one to spare.
constexpr int64_t kTries = 4;

WorldPlan MakePlan(uint64_t seed, Outage outage) {
  Random random(seed, 20);
  WorldOptions options;
  options.workers = outage == Outage::kLoneEngineHangs ? 1 : 4 + static_cast<int>(random.Below(3));
  const bool single = options.workers == 1 || outage == Outage::kNeededLinkCut ||
                      outage == Outage::kNeededEngineHangs || outage == Outage::kNeededLinkSwallows;
  options.holders = single ? 1 : outage == Outage::kProcessesStopInTurn ? 3 : 2;
  WorldPlan plan = DrawPlan(seed, options);
  plan.peaceful = true;  // but for the outage
  plan.shape.poison = false;
  plan.shape.overflow_one_in = 0;
  plan.fixed_ranks = false;
  if (single) plan.core.redundant_experts = 0;
  plan.shape.experts = std::max(8, plan.core.workers);
  plan.core.n_routed_experts = MakeModelConfig(plan.shape).RoutedExperts();
  plan.core.n_group = 1;
  plan.core.expert_load.clear();
  plan.core.block_tokens = 4;
  plan.core.max_context = plan.shape.max_context = 60;
  plan.core.max_batch_rows = 8 + static_cast<int32_t>(random.Below(20));
  plan.core.max_queued_requests = 100;
  // Slow, so that a minute has few steps.
  plan.step_time = random.Between(absl::Milliseconds(10), absl::Milliseconds(20));
  plan.core.step_timeout = random.Between(absl::Seconds(1), absl::Seconds(6));
  if (outage == Outage::kProcessStops) plan.core.step_timeout = absl::Seconds(6);
  plan.load_time = random.Between(absl::Milliseconds(50), absl::Milliseconds(500));
  return plan;
}

class OutageRun {
 public:
  OutageRun(uint64_t seed, Outage outage, bool trace)
      : world(seed, MakePlan(seed, outage), trace),
        outage_(outage),
        core_(MakePlan(seed, outage).core),
        random_(seed, 21) {}

  // False: something went wrong.
  bool Go();
  std::string problem() const { return world.problems.empty() ? problem_ : world.problems.front(); }

  World world;

 private:
  bool Begin();
  bool Break();
  bool Last();
  bool End();

  // Lets the world go on, with something to compute, until `done`.
  bool Until(const std::function<bool()>& done, absl::Duration limit, absl::string_view what);
  bool For(absl::Duration time) {
    const absl::Time end = world.now() + time;
    return Until([&] { return world.now() >= end; }, 2 * time, "time does not pass");
  }
  bool Fail(const std::string& why) {
    if (problem_.empty()) problem_ = why;
    return false;
  }
  void KeepBusy();
  bool Whole() const;
  // No more than one is left out for each cut link, and nobody who reaches all.
  void CheckLeftOut();
  // Whether experts all have a holder among some workers that reach each other.
  bool CanServe() const;
  void Cut(int a, int b, Network::Loss loss);
  // The one stops for half a second, then the other, for as long as the outage lasts.
  void StopInTurn(Process& one, Process& other);

  const Outage outage_;
  const CoreConfig core_;
  Random random_;
  int victim_ = 0;             // its rank
  Process* broken_ = nullptr;  // who has that rank
  std::vector<std::pair<int, int>> cuts_;
  bool tokens_must_come_ = false;
  absl::Time watched_since_;
  absl::Time look_again_;  // at who is left out
  bool busy_ = true;
  bool stop_in_turn_ = true;
  std::string problem_;
};

bool OutageRun::Go() { return Begin() && Break() && Last() && End(); }

void OutageRun::KeepBusy() {
  while (busy_ && world.auditor().live() < kRequestsAtOnce) {
    Request request = world.DrawRequest();
    request.prompt.resize(std::min<size_t>(request.prompt.size(), 8));
    request.max_tokens = 20;
    request.n = 1;
    request.sampling = SamplingParams{};
    request.deadline = absl::InfiniteFuture();
    world.Arrive(std::move(request));
  }
}

bool OutageRun::Until(const std::function<bool()>& done, absl::Duration limit,
                      absl::string_view what) {
  const absl::Duration longest = LongestPause(outage_, core_);
  const auto go_on = [&] {
    KeepBusy();
    const absl::Time last = std::max(world.auditor().last_token(), watched_since_);
    if (tokens_must_come_ && world.now() - last > longest) {
      Fail(absl::StrCat("at ", absl::FormatDuration(world.now() - absl::UnixEpoch()),
                        ": no token for ", absl::FormatDuration(longest)));
    }
    if (world.now() >= look_again_) {
      look_again_ = world.now() + absl::Seconds(1);
      CheckLeftOut();
    }
    return !problem_.empty() || done();
  };
  if (!world.RunUntil(go_on, limit)) return Fail(std::string(what));
  return problem_.empty();
}

bool OutageRun::Whole() const {
  const ClusterSnapshot snapshot = world.Snapshot();
  return static_cast<int>(snapshot.workers.size()) == core_.workers &&
         std::all_of(snapshot.workers.begin(), snapshot.workers.end(),
                     [](const WorkerSnapshot& worker) { return worker.state == "serving"; });
}

void OutageRun::CheckLeftOut() {
  size_t left_out = 0;
  for (const WorkerSnapshot& worker : world.Snapshot().workers) {
    if (worker.state != "left out") continue;
    ++left_out;
    const int rank = worker.rank.value();
    const bool has_reason = cuts_.empty()
                                ? rank == victim_
                                : std::any_of(cuts_.begin(), cuts_.end(), [&](const auto& cut) {
                                    return rank == cut.first || rank == cut.second;
                                  });
    if (!has_reason) Fail(absl::StrCat("rank ", rank, " is left out for nothing"));
  }
  if (left_out > std::max<size_t>(1, cuts_.size())) {
    Fail(absl::StrCat(left_out, " workers are left out"));
  }
}

bool OutageRun::CanServe() const {
  for (uint32_t absent = 0; absent + 1 < uint32_t{1} << core_.workers; ++absent) {
    const auto is_absent = [&](int rank) { return (absent >> rank & 1) != 0; };
    std::vector<RankId> ranks;
    for (int rank = 0; rank < core_.workers; ++rank) {
      if (is_absent(rank)) ranks.push_back(RankId(rank));
    }
    const bool meet = std::all_of(cuts_.begin(), cuts_.end(), [&](const auto& cut) {
      return is_absent(cut.first) || is_absent(cut.second);
    });
    if (meet && world.auditor().placement()->CheckWithout(ranks).ok()) return true;
  }
  return false;
}

void OutageRun::Cut(int a, int b, Network::Loss loss) {
  world.Note([&] { return absl::StrCat("-- ranks ", a, " and ", b, " are cut off each other"); });
  world.BreakNetwork().Cut(*world.ProcessAt(a), *world.ProcessAt(b), loss, absl::InfiniteFuture());
  cuts_.emplace_back(a, b);
  tokens_must_come_ = CanServe();
}

void OutageRun::StopInTurn(Process& one, Process& other) {
  if (!stop_in_turn_) return;
  one.Pause();
  world.timeline().After(absl::Milliseconds(450), [&one] { one.Continue(); });
  world.timeline().After(absl::Milliseconds(300), [this, &one, &other] { StopInTurn(other, one); });
}

bool OutageRun::Begin() {
  world.Begin();
  if (!world.RunUntil([&] { return Whole(); }, absl::Seconds(60))) return Fail("never served");
  watched_since_ = world.now();
  tokens_must_come_ = true;
  if (outage_ == Outage::kLoneEngineHangs) world.StartProcess(0);
  return For(random_.Between(absl::Seconds(1), absl::Seconds(2)));
}

bool OutageRun::Break() {
  using Loss = Network::Loss;
  const auto below = [&](int bound) { return static_cast<int>(random_.Below(bound)); };
  victim_ = below(core_.workers);
  broken_ = world.ProcessAt(victim_);
  const int other = (victim_ + 1 + below(std::max(1, core_.workers - 1))) % core_.workers;
  const Loss any_loss = random_.Chance(50) ? Loss::kNoticed : Loss::kSilent;
  Network& network = world.BreakNetwork();
  world.Note([&] { return absl::StrCat("-- ", OutageName(outage_), ", rank ", victim_); });
  switch (outage_) {
    case Outage::kLinkCut:
      Cut(victim_, other, Loss::kNoticed);
      break;
    case Outage::kLinkSilent:
      Cut(victim_, other, Loss::kSilent);
      break;
    case Outage::kLinkOneWay:
      Cut(victim_, other, Loss::kOneWay);
      break;
    case Outage::kLinkSwallows:
      Cut(victim_, other, Loss::kSwallowed);
      break;
    case Outage::kNeededLinkSwallows:
      world.StartProcess(0);
      Cut(victim_, other, Loss::kSwallowed);
      break;
    case Outage::kTwoLinksCut: {
      int third = below(core_.workers);
      while (third == other || third == victim_) third = (third + 1) % core_.workers;
      int fourth = below(core_.workers);
      while (fourth == other || fourth == third) fourth = (fourth + 1) % core_.workers;
      Cut(victim_, other, any_loss);
      Cut(fourth, third, any_loss);
      break;
    }
    case Outage::kNeededLinkCut:
      Cut(victim_, other, any_loss);
      break;
    case Outage::kPortRefuses:
      network.CutInbound(*broken_, Loss::kNoticed, absl::InfiniteFuture());
      break;
    case Outage::kPortSilent:
      network.CutInbound(*broken_, Loss::kSilent, absl::InfiniteFuture());
      break;
    case Outage::kNewcomerUnreached:
      world.Kill(victim_);
      network.CutInbound(*world.StartProcess(0), any_loss, absl::InfiniteFuture());
      break;
    case Outage::kEngineHangs:
    case Outage::kLoneEngineHangs:
      broken_->Hang();
      break;
    case Outage::kNeededEngineHangs:
      broken_->Hang();
      tokens_must_come_ = false;
      break;
    case Outage::kProcessStops:
      broken_->Pause();
      break;
    case Outage::kProcessesStopInTurn:
      cuts_ = {{victim_, other}, {other, victim_}};  // both may be out
      StopInTurn(*broken_, *world.ProcessAt(other));
      break;
  }
  return true;
}

bool OutageRun::Last() {
  const int64_t epochs = world.counts.epochs;
  if (!For(kOutageTime)) return false;
  if (outage_ == Outage::kProcessesStopInTurn) return true;
  if (outage_ == Outage::kNeededLinkSwallows &&
      world.now() - world.auditor().last_token() > kGoingOn) {
    return Fail("the worker that stands by did not help");
  }
  const int64_t epochs_of_try = 2 + (outage_ == Outage::kLinkSwallows ? kStepsInVain : 0);
  if (tokens_must_come_ && world.counts.epochs - epochs > epochs_of_try * kTries + 1) {
    return Fail(absl::StrCat(world.counts.epochs - epochs, " epochs"));
  }
  const bool one_is_lost =
      outage_ == Outage::kNewcomerUnreached || outage_ == Outage::kEngineHangs ||
      outage_ == Outage::kLoneEngineHangs || outage_ == Outage::kNeededEngineHangs ||
      outage_ == Outage::kNeededLinkSwallows || outage_ == Outage::kProcessStops;
  if (world.counts.losses != (one_is_lost ? 1 : 0)) {
    return Fail(absl::StrCat(world.counts.losses, " workers were lost"));
  }
  return true;
}

bool OutageRun::End() {
  world.Note([] { return std::string("-- the outage is over"); });
  world.BreakNetwork().HealLinks();
  stop_in_turn_ = false;
  if (outage_ == Outage::kEngineHangs || outage_ == Outage::kNeededEngineHangs) {
    world.StartProcess(0);
  }
  if (outage_ == Outage::kProcessStops) broken_->Continue();
  tokens_must_come_ = true;
  watched_since_ = world.now();
  // What was sent before is lost, and may still leave somebody out.
  if (outage_ == Outage::kLinkSwallows && !For(kStepsInVain * core_.step_timeout)) return false;
  if (!Until([&] { return Whole(); }, kComeback, "not all ranks came back")) return false;
  if (!For(absl::Seconds(1))) return false;
  busy_ = tokens_must_come_ = false;
  if (!Until([&] { return world.auditor().live() == 0; }, absl::Seconds(60), "requests are left")) {
    return false;
  }
  if (world.Snapshot().least_holders < core_.holders) return Fail("an expert lacks a holder");
  if (world.counts.failed + world.counts.rejected > 0) return Fail("a request failed");
  return true;
}

}  // namespace

absl::string_view OutageName(Outage outage) {
  switch (outage) {
    case Outage::kLinkCut:
      return "a link is cut";
    case Outage::kLinkSilent:
      return "a link is cut silently";
    case Outage::kLinkOneWay:
      return "a link is cut one way";
    case Outage::kNeededLinkSwallows:
      return "a link swallows that is needed";
    case Outage::kLinkSwallows:
      return "a link swallows what is sent";
    case Outage::kTwoLinksCut:
      return "two links are cut";
    case Outage::kPortRefuses:
      return "a port refuses";
    case Outage::kPortSilent:
      return "a port is silent";
    case Outage::kNewcomerUnreached:
      return "nobody reaches a newcomer";
    case Outage::kEngineHangs:
      return "an engine hangs";
    case Outage::kLoneEngineHangs:
      return "the only engine hangs";
    case Outage::kNeededEngineHangs:
      return "an engine hangs that is needed";
    case Outage::kProcessesStopInTurn:
      return "two processes stop in turn";
    case Outage::kProcessStops:
      return "a process stops";
    case Outage::kNeededLinkCut:
      return "a link is cut that is needed";
  }
  return "";
}

std::string RunOutage(uint64_t seed, Outage outage, std::vector<std::string>* trace) {
  spdlog::set_level(spdlog::level::off);
  OutageRun run(seed, outage, trace != nullptr);
  run.Go();
  if (trace != nullptr) trace->assign(run.world.trace().begin(), run.world.trace().end());
  return run.problem();
}

}  // namespace shoal::sim
