// SPDX-License-Identifier: Apache-2.0
#include "coordinator/sim/large_unit.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "coordinator/link/translate.h"
#include "coordinator/sim/world.h"
#include "engine/base/status_macros.h"
#include "proto/cluster.pb.h"
#include "spdlog/spdlog.h"

namespace shoal::sim {
namespace {

constexpr absl::Duration kLimit = absl::Minutes(5);  // of virtual time, for each phase

WorldPlan MakePlan(const LargeUnitOptions& options) {
  WorldPlan plan;
  plan.peaceful = true;  // but for the one death
  plan.shape.moe_layers = options.moe_layers;
  plan.shape.experts = options.experts;
  plan.shape.skew = options.skew;
  plan.shape.max_context = 64;
  plan.core.workers = options.workers;
  plan.core.holders = options.holders;
  plan.core.redundant_experts = std::max(
      0, options.workers * options.slots_per_worker - options.experts * options.holders);
  plan.core.n_routed_experts = MakeModelConfig(plan.shape).RoutedExperts();
  plan.core.block_tokens = 8;
  plan.core.max_context = plan.shape.max_context;
  plan.core.max_batch_rows = 8;
  plan.core.max_running_sequences = 4;
  plan.core.max_queued_requests = options.workers * options.sequences_per_worker;
  plan.core.prefix_cache = true;
  plan.core.step_timeout = absl::Seconds(5);
  plan.network.least_delay = absl::Microseconds(5);
  plan.network.most_delay = absl::Microseconds(20);
  plan.network.bytes_per_s = options.gbit_per_s * 1e9 / 8;
  plan.network.loud_deaths_percent = 100;
  plan.hosts = std::max(1, options.workers / 8);
  return plan;
}

// Watches the one death.
class Watch {
 public:
  explicit Watch(LargeUnitResult& result) : result_(result) {}

  void See(const World::Told& told, absl::Time now) {
    const bool emits = std::any_of(told.commands.begin(), told.commands.end(), [](const auto& c) {
      return std::holds_alternative<Emit>(c);
    });
    if (emits) {
      if (dead_ && !resumed_) {
        resumed_ = true;
        result_.gap = now - last_emit_;
      } else if (!dead_ && commits_++ > 0) {
        result_.step = now - last_emit_;
      }
      last_emit_ = now;
    }
    if (!dead_ || resumed_) return;
    if (std::holds_alternative<WorkerReady>(told.event)) result_.resume_cpu += told.cpu;
    bool announces = false;
    proto::CoordinatorMessage message;
    const absl::Duration begin = ThreadCpu();
    for (const Command& command : told.commands) {
      const auto* assign = std::get_if<AssignRank>(&command);
      if (assign == nullptr) continue;
      announces = true;
      const std::vector<std::string> endpoints(assign->members->size(), "10.0.0.1:50000");
      ToProto(*assign, endpoints, /*placement_is_known=*/true, *message.mutable_assign_rank());
    }
    if (!announces) return;
    result_.link_cpu = ThreadCpu() - begin;
    result_.decide_cpu = told.cpu;
    result_.resume_cpu = absl::ZeroDuration();
  }

  void Dies() { dead_ = true; }
  int64_t commits() const { return commits_; }
  bool resumed() const { return resumed_; }

 private:
  LargeUnitResult& result_;
  bool dead_ = false;
  bool resumed_ = false;
  int64_t commits_ = 0;
  absl::Time last_emit_;
};

}  // namespace

absl::StatusOr<LargeUnitResult> MeasureDeath(const LargeUnitOptions& options) {
  const WorldPlan plan = MakePlan(options);
  SHOAL_RETURN_IF_ERROR(Validate(plan.core));
  spdlog::set_level(spdlog::level::off);
  LargeUnitResult result;
  Watch watch(result);
  World world(options.seed, plan, /*trace=*/false);
  world.SetObserver([&](const World::Told& told) { watch.See(told, world.now()); });
  const auto fail = [&](absl::string_view what) {
    return absl::InternalError(
        world.problems.empty() ? absl::StrCat("the unit ", what) : world.problems.front());
  };
  world.Begin();
  if (!world.RunUntil([&] { return world.serving(); }, kLimit)) return fail("never served");
  for (int i = 0; i < options.workers * options.sequences_per_worker; ++i) {
    Request request = world.DrawRequest();
    request.prompt.resize(std::min<size_t>(request.prompt.size(), 8));
    request.max_tokens = 40;
    request.n = 1;
    request.sampling = SamplingParams{};
    request.deadline = absl::InfiniteFuture();
    world.Arrive(std::move(request));
  }
  if (!world.RunUntil([&] { return watch.commits() >= 4; }, kLimit)) return fail("never decoded");
  watch.Dies();
  world.Kill(options.workers / 2);
  if (!world.RunUntil([&] { return watch.resumed(); }, kLimit)) return fail("never resumed");
  for (const Recovery& recovery : world.Snapshot().recoveries) {
    result.rewound += recovery.rewound;
    result.replayed += recovery.replayed;
  }
  const std::vector<int64_t> received = world.ReceivedBytes();
  int64_t sum = 0;
  for (const int64_t bytes : received) sum += bytes;
  result.busiest_over_mean = static_cast<double>(*std::max_element(received.begin(), received.end())) *
                             static_cast<double>(received.size()) / static_cast<double>(sum);
  return result;
}

}  // namespace shoal::sim
