// SPDX-License-Identifier: Apache-2.0
// What a world is made of, what happens in it and how it ends.
#include "coordinator/sim/world.h"

#include <algorithm>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "coordinator/sim/describe.h"
#include "engine/base/check.h"

namespace shoal::sim {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(50);
// Faults have stopped: so long may it take until everything has come to its end. A worker that connects
// to a peer that is not there any more takes ten seconds to give up, and may have to do so again.
constexpr absl::Duration kSettleTime = absl::Seconds(90);
// A world that has so many events for each worker goes round in circles.
constexpr int64_t kMostEventsPerWorker = 1'000'000;

bool IsRoutine(const Event& event) {
  return std::holds_alternative<Heartbeat>(event) || std::holds_alternative<shoal::Tick>(event);
}

// How hot each expert is thought to be; nothing of it need be true.
std::vector<float> DrawLoad(Random& random, int experts) {
  const uint64_t kind = random.Below(4);
  std::vector<float> load;
  for (int e = 0; e < experts; ++e) {
    switch (kind) {
      case 0:
        load.push_back(7.0f);
        break;
      case 1:
        load.push_back(1000.0f / static_cast<float>((e + 1) * (e + 1)));
        break;
      case 2:  // some have never been chosen
        load.push_back(random.Chance(50) ? 0.0f : static_cast<float>(random.Below(1000)));
        break;
      default:  // none has
        load.push_back(0.0f);
    }
  }
  return load;
}

// Experts, their groups and loads. Fewer experts than workers only where copies are planned.
void DrawExperts(uint64_t seed, WorldPlan& plan) {
  Random random(seed, 1);
  const bool few = random.Chance(15) && plan.core.holders + plan.core.redundant_experts > 1;
  const int experts = few ? 2 + static_cast<int>(random.Below(3)) : std::max(8, plan.core.workers);
  plan.shape.experts = experts;
  plan.core.redundant_experts = std::min(plan.core.redundant_experts,
                                         experts * (plan.core.workers - plan.core.holders));
  plan.core.n_routed_experts = MakeModelConfig(plan.shape).RoutedExperts();
  if (random.Chance(50)) {
    do {
      plan.core.n_group = 1 + static_cast<int>(random.Below(static_cast<uint64_t>(experts)));
    } while (experts % plan.core.n_group != 0);
  }
  if (random.Chance(40)) {
    for (const int of_layer : plan.core.n_routed_experts) {
      plan.core.expert_load.push_back(DrawLoad(random, of_layer));
    }
  }
  plan.even_hosts = random.Chance(50);
  plan.shape.poison = random.Chance(5);
  plan.fixed_ranks = random.Chance(8);
}

// Some of these worlds live longer than anybody is left out at first.
void DrawOutages(uint64_t seed, WorldPlan& plan) {
  Random random(seed, 4);
  plan.outages = random.Chance(50);
  if (!plan.outages || !random.Chance(15)) return;
  plan.busy_time = random.Between(absl::Seconds(6), absl::Seconds(15));
  plan.few_faults = true;
}

}  // namespace

WorldPlan DrawPlan(uint64_t seed, const WorldOptions& options) {
  Random random(seed, 0);
  WorldPlan plan;
  plan.core.workers = 1 + static_cast<int>(random.Below(5));
  if (options.workers > 0) plan.core.workers = options.workers;
  plan.core.holders = 1 + static_cast<int>(random.Below(std::min(plan.core.workers, 3)));
  if (options.holders > 0) plan.core.holders = std::min(options.holders, plan.core.workers);
  plan.core.redundant_experts = random.Chance(30) ? static_cast<int>(random.Below(6)) : 0;
  plan.shape.moe_layers = 1 + static_cast<int>(random.Below(2));
  plan.shape.skew = random.Chance(30) ? 1.0 : 0.0;
  plan.shape.overflow_one_in = random.Chance(25) ? 200 : 0;
  plan.core.block_tokens = 1 << random.Below(4);
  plan.core.max_context = 20 + static_cast<int64_t>(random.Below(40));
  plan.shape.max_context = plan.core.max_context;
  plan.core.max_batch_rows = 1 + static_cast<int32_t>(random.Below(random.Chance(50) ? 6 : 40));
  plan.core.max_running_sequences = 1 + static_cast<int32_t>(random.Below(8));
  plan.core.max_queued_requests = 2 + static_cast<int32_t>(random.Below(30));
  plan.core.prefix_cache = random.Chance(80);
  plan.core.step_timeout = random.Between(absl::Milliseconds(600), absl::Seconds(3));
  plan.core.loading_timeout = absl::Seconds(8);
  DrawExperts(seed, plan);
  plan.network.most_delay = random.Chance(70) ? absl::Microseconds(200) : absl::Milliseconds(10);
  plan.network.loud_deaths_percent = random.Chance(70) ? 90 : 0;
  plan.network.bytes_per_s = random.Chance(20) ? 10e6 : 0;
  plan.peaceful = random.Chance(10);
  plan.busy_time = random.Between(absl::Seconds(1), absl::Seconds(4));
  plan.requests = 10 + static_cast<int>(random.Below(30));
  plan.load_time = random.Between(absl::Milliseconds(5), absl::Milliseconds(800));
  plan.step_time = random.Between(absl::Microseconds(200), absl::Milliseconds(4));
  plan.hosts = 1 + static_cast<int>(random.Below(4));
  DrawOutages(seed, plan);
  if (random.Chance(10)) plan.drain = random.Between(absl::ZeroDuration(), plan.busy_time);
  return plan;
}

World::World(uint64_t seed, const WorldPlan& plan, bool trace)
    : seed_(seed),
      plan_(plan),
      trace_on_(trace),
      random_(seed, 10),
      fault_random_(seed, 11),
      outage_random_(seed, 12),
      network_(plan.network, seed, timeline_),
      switchboard_(seed, timeline_, network_, [this](Event event) { Post(std::move(event)); }),
      core_(Core::Create(plan.core)) {
  auditor_.emplace(plan.core, plan.shape, counts, problems);
  for (int i = 0; i < 3; ++i) {
    std::vector<int32_t>& prompt = shared_prompts_.emplace_back();
    for (uint64_t t = random_.Below(30); t > 0; --t) {
      prompt.push_back(static_cast<int32_t>(random_.Below(kVocabulary)));
    }
  }
}

World::~World() = default;

void World::Problem(const std::string& what) {
  problems.push_back(
      absl::StrCat("at ", absl::FormatDuration(now() - absl::UnixEpoch()), ": ", what));
}

void World::Note(const std::function<std::string()>& line) {
  if (!trace_on_) return;
  trace_.push_back(
      absl::StrCat(absl::FormatDuration(now() - absl::UnixEpoch()), "  ", line()));
}

// --- Time ---

void World::Begin() {
  for (int i = 0; i < plan_.core.workers; ++i) {
    StartProcess(plan_.even_hosts ? i % plan_.hosts
                                  : static_cast<int>(fault_random_.Below(plan_.hosts)));
  }
  timeline_.After(kTick, [this] { Tick(); });
}

bool World::RunUntil(const std::function<bool()>& done, absl::Duration limit) {
  const absl::Time end = now() + limit;
  while (problems.empty() && !done()) {
    if (now() > end || !RunNext()) return false;
  }
  return problems.empty();
}

bool World::RunNext() {
  if (timeline_.events() == kMostEventsPerWorker * plan_.core.workers) {
    Problem("goes round in circles");
  }
  return timeline_.RunNext();
}

void World::Run() {
  Begin();
  requests_left_ = plan_.requests;
  timeline_.After(absl::ZeroDuration(), [this] { NextRequest(); });
  timeline_.After(absl::Milliseconds(20), [this] { NextFault(); });
  if (plan_.outages && !plan_.peaceful) {
    timeline_.After(absl::Milliseconds(300), [this] { NextOutage(); });
  }
  if (plan_.shape.poison) timeline_.After(plan_.busy_time / 4, [this] { ArrivePoisoned(); });
  if (plan_.drain < plan_.busy_time) timeline_.After(plan_.drain, [this] { Post(DrainStarted{}); });
  timeline_.After(plan_.busy_time, [this] { Settle(); });
  while (problems.empty() && !settled_ && RunNext()) {
  }
  if (problems.empty()) {
    const ClusterSnapshot snapshot = Snapshot();
    auditor_->CheckSettled(snapshot);
    std::vector<Command> commands;
    core_->Step(shoal::Tick{}, now(), commands);
    if (!commands.empty()) Problem("an idle cluster was told something");
  }
  CountWhatTheCoreCounts();
}

void World::CountWhatTheCoreCounts() {
  const ClusterSnapshot snapshot = Snapshot();
  counts.preemptions += snapshot.preemptions;
  counts.cache_hits += snapshot.prefix_cache_hits;
  counts.steps += snapshot.steps;
}

void World::Tick() {
  if (!stalled_) {
    Tell(shoal::Tick{});
    if (settling_) CheckWhetherSettled();
  }
  timeline_.After(kTick, [this] { Tick(); });
}

// No more faults and no more requests: everything must come to its end.
void World::Settle() {
  Note([] { return std::string("-- nothing goes wrong any more"); });
  settling_ = true;
  settle_limit_ = now() + kSettleTime;
  network_.Partition({}, /*from_coordinator=*/true, absl::InfinitePast());
  network_.HealLinks();
  for (const std::unique_ptr<Process>& process : processes_) {
    if (process->dead()) continue;
    process->SetSlowness(1);
    process->Continue();
  }
  for (int live = LiveProcesses(); live < plan_.core.workers; ++live) StartProcess(0);
  if (random_.Chance(30)) Post(DrainStarted{});
}

void World::CheckWhetherSettled() {
  const std::string unsettled = auditor_->Unsettled(Snapshot());
  settled_ = unsettled.empty();
  if (!settled_ && now() > settle_limit_) Problem("no end in sight: " + unsettled);
}

// --- The core ---

void World::Post(Event event) {
  if (stalled_) return backlog_.push_back(std::move(event));
  Tell(event);
  if (plan_.peaceful || !problems.empty()) return;
  const bool of_work = std::holds_alternative<StepDone>(event) ||
                       std::holds_alternative<WorkerReady>(event) ||
                       std::holds_alternative<WorkerLoaded>(event);
  if (!of_work) return;
  if (fault_random_.Chance(3)) TellNonsense(event);  // heard twice
  if (fault_random_.Chance(3)) heard_.push_back(std::move(event));
}

void World::Tell(const Event& event) {
  if (!problems.empty()) return;
  if (!IsRoutine(event)) Note([&] { return Describe(event); });
  if (const auto* joined = std::get_if<WorkerJoined>(&event)) {
    if (joined->last_epoch < switchboard_.AssignedBefore(joined->worker)) {
      Problem("a worker does not bring along the epoch it was told of last");
    }
  }
  auditor_->Before(event, now());
  std::vector<Command> commands;
  absl::Duration cpu;
  if (core_thread_ == nullptr) {
    core_->Step(event, now(), commands);
  } else {
    cpu = core_thread_->Run([&] { core_->Step(event, now(), commands); });
  }
  Digest(event, commands);
  for (const Command& command : commands) {
    Note([&] { return "    " + Describe(command); });
  }
  auditor_->After(event, commands, calm_);
  if (observer_) observer_({event, commands, cpu});
  for (const Command& command : commands) Execute(command);
  const bool large = plan_.core.workers > 16;
  if (large ? std::holds_alternative<shoal::Tick>(event) && counts.events % 16 == 0
            : !commands.empty() || std::holds_alternative<RequestArrived>(event) ||
                  counts.events % 8 == 0) {
    auditor_->CheckSnapshot(Snapshot());
  }
}

void World::TellNonsense(const Event& event) {
  if (!problems.empty() || stalled_) return;
  Note([&] { return "(nonsense) " + Describe(event); });
  std::vector<Command> commands;
  core_->Step(event, now(), commands);
  auditor_->HadNoEffect(event, commands);
}

void World::Execute(const Command& command) {
  if (const auto* assign = std::get_if<AssignRank>(&command)) {
    switchboard_.Execute(*assign);
  } else if (const auto* load = std::get_if<LoadExperts>(&command)) {
    switchboard_.Execute(*load);
  } else if (const auto* plan = std::get_if<SendPlan>(&command)) {
    switchboard_.Execute(*plan);
  } else if (const auto* evict = std::get_if<EvictWorker>(&command)) {
    const Process* process = switchboard_.Find(evict->worker);
    if (process != nullptr && !process->dead()) ++counts.false_alarms;
    switchboard_.Execute(*evict);
  }
}

void World::Digest(const Event& event, const std::vector<Command>& commands) {
  const auto add = [&](uint64_t value) { digest_ = MixBits(digest_, value); };
  add(event.index());
  add(static_cast<uint64_t>(absl::ToUnixNanos(now())));
  for (const Command& command : commands) {
    add(command.index());
    if (const auto* emit = std::get_if<Emit>(&command)) {
      add(static_cast<uint64_t>(emit->request.value() * 1000 + emit->choice));
      for (const int32_t token : emit->tokens) add(static_cast<uint64_t>(token));
    } else if (const auto* plan = std::get_if<SendPlan>(&command)) {
      add(static_cast<uint64_t>(plan->plan.step.value()));
      for (const SequenceWork& work : plan->plan.plan.work) {
        add(static_cast<uint64_t>(work.id.value() * 1000 + work.start));
        for (const BlockId block : work.new_blocks) add(static_cast<uint64_t>(block.value()));
      }
    }
  }
}

// --- Clients ---

void World::NextRequest() {
  if (settling_ || requests_left_ == 0) return;
  --requests_left_;
  Arrive(DrawRequest());
  if (random_.Chance(15)) CancelOne();
  const absl::Duration mean = plan_.busy_time / (plan_.requests + 1);
  timeline_.After(random_.Between(absl::ZeroDuration(), 2 * mean), [this] { NextRequest(); });
}

Request World::DrawRequest() {
  Request request;
  request.id = RequestId(++last_request_);
  request.prompt = shared_prompts_[random_.Below(shared_prompts_.size())];
  request.prompt.resize(random_.Below(request.prompt.size() + 1));
  for (uint64_t t = random_.Below(6); t > 0 || request.prompt.empty(); t -= t > 0) {
    request.prompt.push_back(static_cast<int32_t>(random_.Below(kVocabulary)));
  }
  if (plan_.shape.poison && request.prompt[0] == kPoison) request.prompt[0] = 0;
  const auto context = static_cast<size_t>(plan_.core.max_context);
  if (request.prompt.size() >= context) request.prompt.resize(context - 1);
  const auto room = static_cast<int64_t>(context - request.prompt.size());
  request.max_tokens = static_cast<int32_t>(
      std::min<int64_t>(static_cast<int64_t>(random_.Below(40)), room));
  request.n = random_.Chance(75) ? 1 : 1 + static_cast<int32_t>(random_.Below(4));
  request.priority = random_.Chance(70) ? 0 : static_cast<int32_t>(random_.Below(3)) - 1;
  request.user = std::string(1, static_cast<char>('a' + random_.Below(3)));
  if (random_.Chance(10)) {
    request.deadline = now() + random_.Between(absl::ZeroDuration(), absl::Seconds(3));
  }
  SamplingParams& sampling = request.sampling;
  sampling.seed = random_.Below(5);
  sampling.temperature = random_.Chance(30) ? 0.0f : 1.0f;
  if (random_.Chance(20)) sampling.top_p = 0.8f;
  if (random_.Chance(20)) sampling.presence_penalty = 1.0f;
  if (random_.Chance(20)) sampling.repetition_penalty = 1.2f;
  sampling.top_logprobs = random_.Chance(30) ? 2 : -1;
  sampling.prompt_logprobs = random_.Chance(15);
  if (random_.Chance(40)) sampling.end_token_ids = {kEndToken, kVocabulary + 5};
  if (random_.Chance(30)) sampling.min_tokens = static_cast<int32_t>(random_.Below(8));
  return request;
}

// Whoever runs it dies of it; nothing but its deadline ends that.
void World::ArrivePoisoned() {
  calm_ = false;
  Request request = DrawRequest();
  request.prompt[0] = kPoison;
  request.deadline = now() + plan_.busy_time;
  request.n = 1;
  Arrive(std::move(request));
}

void World::Arrive(Request request) { Post(RequestArrived{std::move(request)}); }

void World::CancelOne() {
  const std::vector<RequestId> live = auditor_->LiveRequests();
  if (live.empty()) return;
  const RequestId id = live[random_.Below(live.size())];
  std::optional<int32_t> which;
  if (random_.Chance(50)) {
    which = static_cast<int32_t>(random_.Below(static_cast<uint64_t>(auditor_->request(id).n)));
  }
  Post(RequestCancelled{id, which});
}

}  // namespace shoal::sim
