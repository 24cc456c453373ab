// SPDX-License-Identifier: Apache-2.0
// What goes wrong in a world, and how processes come and come back.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/sim/world.h"

namespace shoal::sim {

// --- Processes ---

int World::LiveProcesses() const {
  return static_cast<int>(std::count_if(processes_.begin(), processes_.end(),
                                        [](const auto& process) { return !process->dead(); }));
}

int World::FreeFixedRank() const {
  std::vector<bool> taken(plan_.core.workers, false);
  for (const std::unique_ptr<Process>& process : processes_) {
    if (!process->dead()) taken[process->options().fixed_rank] = true;
  }
  const auto free = std::find(taken.begin(), taken.end(), false);
  return free == taken.end() ? -1 : static_cast<int>(free - taken.begin());
}

Process* World::StartProcess(int host) {
  const int fixed_rank = plan_.fixed_ranks ? FreeFixedRank() : -1;
  if (plan_.fixed_ranks && fixed_rank < 0) return nullptr;
  // Sometimes too few blocks for the longest request.
  const int64_t for_longest = (plan_.core.max_context + plan_.core.block_tokens - 1) /
                              plan_.core.block_tokens;
  ProcessOptions options;
  options.number = static_cast<int>(processes_.size()) + 1;
  options.host = host;
  options.fixed_rank = fixed_rank;
  options.cache_blocks =
      std::max<int64_t>(1, for_longest + static_cast<int64_t>(fault_random_.Below(8)) - 2);
  options.block_tokens = plan_.core.block_tokens;
  options.max_batch_rows = plan_.core.max_batch_rows;
  options.max_running = plan_.core.max_running_sequences;
  options.shape = plan_.shape;
  options.load_time = plan_.load_time;
  options.step_time = plan_.step_time;
  if (!plan_.peaceful && fault_random_.Chance(3)) {
    options.last_epoch = Epoch(static_cast<int64_t>(fault_random_.Below(uint64_t{1} << 40)));
  }
  const auto index = processes_.size();
  Note([&] { return absl::StrCat("-- process ", options.number, " starts on host ", host); });
  processes_.push_back(std::make_unique<Process>(
      options, seed_, timeline_, network_, switchboard_,
      [this, index, host](const absl::Status& status) {
        Note([&] {
          return absl::StrCat("-- process ", index + 1, " exits: ", status.ToString());
        });
        processes_[index]->Kill();
        timeline_.After(fault_random_.Between(absl::Milliseconds(10), absl::Milliseconds(200)),
                        [this, host] { StartAnew(host); });
      }));
  return processes_.back().get();
}

void World::StartAnew(int host) {
  if (LiveProcesses() >= plan_.core.workers) return;
  StartProcess(fault_random_.Chance(75) ? host
                                        : static_cast<int>(fault_random_.Below(plan_.hosts)));
}

Process* World::ProcessAt(int rank) {
  for (const WorkerSnapshot& worker : Snapshot().workers) {
    if (worker.rank == RankId(rank)) return switchboard_.Find(worker.worker);
  }
  return nullptr;
}

void World::Kill(int rank) {
  Process* const process = ProcessAt(rank);
  if (process == nullptr) return;
  ++counts.deaths;
  calm_ = false;
  Note([&] { return absl::StrCat("-- process ", process->options().number, " dies"); });
  process->Kill();
}

Network& World::BreakNetwork() {
  calm_ = false;
  return network_;
}

Process* World::AnyProcess(Random& random) {
  std::vector<Process*> live;
  for (const std::unique_ptr<Process>& process : processes_) {
    if (!process->dead()) live.push_back(process.get());
  }
  return live.empty() ? nullptr : live[random.Below(live.size())];
}

WorkerId World::AnyWorker() {
  const ClusterSnapshot snapshot = Snapshot();
  if (snapshot.workers.empty()) return WorkerId(1'000'000);
  return snapshot.workers[fault_random_.Below(snapshot.workers.size())].worker;
}

// --- Faults ---

void World::NextFault() {
  if (settling_ || !problems.empty()) return;
  if (fault_random_.Chance(50)) {
    ForgeSomething();
  } else if (!plan_.peaceful) {
    BreakSomething();
  }
  const absl::Duration most = plan_.few_faults ? absl::Seconds(4) : absl::Milliseconds(250);
  timeline_.After(fault_random_.Between(absl::Milliseconds(5), most), [this] { NextFault(); });
}

void World::BreakSomething() {
  calm_ = false;
  const auto note = [&](const Process& process, const char* what) {
    Note([&] { return absl::StrCat("-- process ", process.options().number, " ", what); });
  };
  Process* const process = AnyProcess();
  if (process == nullptr) {
    StartProcess(0);
    return;
  }
  const absl::Duration later =
      fault_random_.Between(absl::Milliseconds(10), absl::Milliseconds(900));
  switch (fault_random_.Below(14)) {
    case 0:  // dies; sometimes another one with it, or a little later
    case 1:
    case 2: {
      const auto die = [this, note](Process& victim) {
        if (victim.dead() || settling_) return;
        ++counts.deaths;
        note(victim, "dies");
        victim.Kill();
        if (fault_random_.Chance(25)) return;  // for good
        timeline_.After(fault_random_.Between(absl::Milliseconds(10), absl::Milliseconds(500)),
                        [this, host = victim.options().host] { StartAnew(host); });
      };
      die(*process);
      Process* const other = AnyProcess();
      if (other == nullptr || !fault_random_.Chance(35)) break;
      timeline_.After(fault_random_.Between(absl::ZeroDuration(), absl::Milliseconds(50)),
                      [die, other] { die(*other); });
      break;
    }
    case 3:  // stops, and wakes up
    case 4:
      note(*process, "is stopped");
      process->Pause();
      timeline_.After(2 * later, [process, note] {
        if (process->dead()) return;
        note(*process, "goes on");
        process->Continue();
      });
      break;
    case 5:
      note(*process, "loses its connection to the coordinator");
      switchboard_.Cut(*process);
      break;
    case 6:
    case 7: {
      Process* const other = AnyProcess();
      if (other == process) break;
      using Loss = Network::Loss;
      const Loss loss = fault_random_.Chance(55)   ? Loss::kNoticed
                        : fault_random_.Chance(50) ? Loss::kSilent
                                                   : Loss::kOneWay;
      Note([&] {
        return absl::StrCat("-- the link ", loss == Loss::kOneWay ? "from" : "between",
                            " processes ", process->options().number, " and ",
                            other->options().number,
                            loss == Loss::kNoticed ? " breaks" : " loses everything");
      });
      network_.Cut(*process, *other, loss, now());
      break;
    }
    case 8: {
      std::vector<int> cut_off;
      for (int host = 0; host < plan_.hosts; ++host) {
        if (fault_random_.Chance(40)) cut_off.push_back(host);
      }
      const bool from_coordinator = fault_random_.Chance(65);
      const absl::Duration time = fault_random_.Chance(80) ? later : 5 * later;
      Note([&] {
        return absl::StrCat("-- ", cut_off.size(), " hosts are cut off",
                            from_coordinator ? "" : " from the others, not from the coordinator",
                            " for ", absl::FormatDuration(time));
      });
      network_.Partition(std::move(cut_off), from_coordinator, now() + time);
      break;
    }
    case 9:
      note(*process, "becomes slow");
      process->SetSlowness(static_cast<double>(fault_random_.Between(2, 30)));
      timeline_.After(later, [process] { process->SetSlowness(1); });
      break;
    case 10:
      note(*process, "loses its device");
      process->BreakDevice();
      break;
    case 11:
      note(*process, "is asked to leave");
      process->Terminate();
      break;
    case 12:
      if (fault_random_.Chance(25)) RestartCoordinator();
      break;
    default:
      if (fault_random_.Chance(50)) {
        if (LiveProcesses() < plan_.core.workers + 2) StartProcess(0);  // a standby
      } else if (!stalled_) {
        Note([] { return std::string("-- the coordinator stands still"); });
        stalled_ = true;
        timeline_.After(later, [this] {
          Note([] { return std::string("-- the coordinator goes on"); });
          stalled_ = false;
          for (Event& event : std::exchange(backlog_, {})) Post(std::move(event));
        });
      }
  }
}

// Hearts go on beating: only peers can tell.
void World::NextOutage() {
  if (settling_ || !problems.empty()) return;
  Random& random = outage_random_;
  timeline_.After(random.Between(absl::Milliseconds(100), plan_.busy_time / 2),
                  [this] { NextOutage(); });
  Process* const process = AnyProcess(random);
  Process* const other = AnyProcess(random);
  if (process == nullptr) return;
  calm_ = false;
  ++counts.outages;
  const absl::Time heals =
      now() + random.Between(absl::Milliseconds(50),
                             random.Chance(60) ? absl::Seconds(2) : absl::Seconds(20));
  using Loss = Network::Loss;
  const Loss loss = random.Chance(50) ? Loss::kNoticed : Loss::kSilent;
  const auto note = [&](absl::string_view what) {
    Note([&] {
      return absl::StrCat("-- process ", process->options().number, " ", what, " for ",
                          absl::FormatDuration(heals - now()),
                          loss == Loss::kNoticed ? ", and hears it" : "");
    });
  };
  const uint64_t kind = random.Below(4);
  if (kind == 0) {
    note("hangs");
    process->Hang();
    timeline_.At(heals, [process] { process->Continue(); });
  } else if (kind == 1) {
    note("is reached by nobody");
    network_.CutInbound(*process, loss, heals);
  } else if (other != process) {
    note(absl::StrCat("is cut off from process ", other->options().number));
    network_.Cut(*process, *other, random.Chance(25) ? Loss::kOneWay : loss, heals);
  }
}

// It comes back with nothing: its clients are gone, its workers dial in as they are.
void World::RestartCoordinator() {
  Note([] { return std::string("-- the coordinator dies, and comes back"); });
  ++counts.restarts;
  CountWhatTheCoreCounts();
  switchboard_.CoordinatorDied();
  heard_.clear();
  backlog_.clear();
  core_ = Core::Create(plan_.core);
  auditor_.emplace(plan_.core, plan_.shape, counts, problems);
}

// --- Nonsense ---

// Events that no sane party sends, or that come too late; none of them may disturb anybody.
void World::ForgeSomething() {
  if (stalled_) return;
  if (!heard_.empty() && fault_random_.Chance(60)) {
    const auto it = heard_.begin() + static_cast<int64_t>(fault_random_.Below(heard_.size()));
    const Event event = std::move(*it);
    heard_.erase(it);
    return TellNonsense(event);
  }
  const WorkerId stranger(1'000'000 + static_cast<int64_t>(fault_random_.Below(9)));
  const WorkerId worker = fault_random_.Chance(70) ? AnyWorker() : stranger;
  switch (fault_random_.Below(10)) {
    case 0:
      return TellNonsense(WorkerLost{stranger, "who?"});
    case 1:
      return TellNonsense(Heartbeat{worker});
    case 2:
      return TellNonsense(WorkerReady{
          worker, Epoch(auditor_->epoch().value() + (fault_random_.Chance(50) ? 1 : -1))});
    case 3:
      return ForgeReport(worker);
    case 4:
      return TellNonsense(RequestCancelled{RequestId(-4), std::nullopt});
    case 5: {
      const std::vector<RequestId> live = auditor_->LiveRequests();
      if (live.empty()) return;
      return TellNonsense(RequestCancelled{
          live.front(), fault_random_.Chance(50) ? -1 : auditor_->request(live.front()).n + 3});
    }
    case 6: {  // refused on arrival
      WorkerJoined joined;
      joined.worker = WorkerId(2'000'000 + static_cast<int64_t>(counts.events));
      joined.host = "nowhere";
      if (fault_random_.Chance(50)) {
        joined.cache_blocks = 10;
        joined.wanted_rank = RankId(fault_random_.Chance(50) ? -1 : plan_.core.workers);
      }
      std::vector<Command> commands;
      core_->Step(joined, now(), commands);
      if (commands.size() != 1 || !std::holds_alternative<EvictWorker>(commands[0])) {
        Problem("an absurd worker was let in");
      }
      return;
    }
    case 7:  // not asked, or said before
      if (auditor_->formed() && auditor_->IsConnected(worker) && !auditor_->IsMember(worker))
        return;
      return TellNonsense(WorkerLoaded{worker});
    case 8: {  // who is here already
      if (!auditor_->IsConnected(worker)) return;
      WorkerJoined joined;
      joined.worker = worker;
      joined.cache_blocks = 1 + static_cast<int64_t>(fault_random_.Below(40));
      joined.last_epoch = Epoch(auditor_->epoch().value() + 7);
      return TellNonsense(joined);
    }
    default:
      return ForgeRequest();
  }
}

// A report of another epoch, of a step long gone or never planned, or by one that is no member.
void World::ForgeReport(WorkerId worker) {
  const Epoch epoch = auditor_->epoch();
  const StepId planned = auditor_->last_planned();
  StepDone done;
  done.worker = worker;
  done.epoch = fault_random_.Chance(60)
                   ? Epoch(epoch.value() + (fault_random_.Chance(20) ? 1 : -1))
                   : epoch;
  done.step = StepId(fault_random_.Chance(50)
                         ? planned.value() + 1 + static_cast<int64_t>(fault_random_.Below(5))
                         : planned.value() - 2 - static_cast<int64_t>(fault_random_.Below(9)));
  done.tokens.push_back(SampledToken{SequenceId(1), 5, 5, std::nullopt});
  if (fault_random_.Chance(30)) {
    done.waiting_dispatch.resize(fault_random_.Below(7), absl::InfiniteDuration());
  }
  if (done.epoch != epoch && fault_random_.Chance(70)) {
    done.blamed = {RankId(static_cast<int32_t>(planned.value() % plan_.core.workers)),
                   RankId(plan_.core.workers), RankId(-1)};
    done.step = planned;
    done.status =
        fault_random_.Chance(50) ? absl::InternalError("old") : absl::AbortedError("old");
  }
  TellNonsense(done);
}

void World::ForgeRequest() {
  if (fault_random_.Chance(50)) {  // the same id again, while it lives
    const std::vector<RequestId> live = auditor_->LiveRequests();
    if (live.empty()) return;
    return TellNonsense(RequestArrived{auditor_->request(live.front())});
  }
  Request request = DrawRequest();
  switch (fault_random_.Below(4)) {
    case 0:
      request.prompt.clear();
      break;
    case 1:
      request.max_tokens = -1;
      break;
    case 2:
      request.n = fault_random_.Chance(50) ? 0 : kMaxChoices + 1;
      break;
    default:
      request.max_tokens = static_cast<int32_t>(plan_.core.max_context) + 1;
  }
  std::vector<Command> commands;
  core_->Step(RequestArrived{std::move(request)}, now(), commands);
  if (commands.size() != 1 || !std::holds_alternative<Reject>(commands[0])) {
    Problem("an absurd request was let in");
  }
}

}  // namespace shoal::sim
