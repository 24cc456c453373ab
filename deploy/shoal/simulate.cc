// SPDX-License-Identifier: Apache-2.0
// `shoal simulate`: clusters made from seeds, with everything that can go wrong, around the real
// core and real workers; and a large one, to see what a death costs there.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <future>
#include <iostream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "coordinator/sim/campaign.h"
#include "coordinator/sim/large_unit.h"
#include "deploy/shoal/commands.h"
#include "engine/base/status_macros.h"
#include "nlohmann/json.hpp"

namespace shoal {
namespace {

constexpr int kLargeUnit = 32;  // from so many workers on one death is measured
constexpr size_t kTraceTail = 40;

struct SimulateOptions {
  std::string seeds = "1..2000";
  int workers = 0;
  int holders = 0;
  std::string trace;  // a seed
  int threads = 0;
  bool json = false;
  sim::LargeUnitOptions large;
};

absl::StatusOr<std::pair<uint64_t, uint64_t>> ParseSeeds(const std::string& text) {
  const std::vector<std::string> ends = absl::StrSplit(text, absl::MaxSplits("..", 1));
  uint64_t first = 0;
  uint64_t last = 0;
  if (!absl::SimpleAtoi(ends.front(), &first) || !absl::SimpleAtoi(ends.back(), &last) ||
      first > last) {
    return absl::InvalidArgumentError(
        absl::StrCat("--seeds: want A..B with A <= B, or one number, found '", text, "'"));
  }
  return std::make_pair(first, last);
}

nlohmann::json ToJson(const sim::CampaignResult& result) {
  const sim::WorldCounts& c = result.counts;
  nlohmann::json failures = nlohmann::json::array();
  for (const sim::FailedSeed& failed : result.failures) {
    failures.push_back({{"seed", failed.seed}, {"problem", failed.problem}});
  }
  return {{"worlds", result.worlds},
          {"events", c.events},
          {"steps", c.steps},
          {"processes_killed", c.deaths},
          {"workers_lost", c.losses},
          {"evicted_alive", c.false_alarms},
          {"epochs", c.epochs},
          {"pauses", c.pauses},
          {"rewinds", c.rewinds},
          {"replays", c.replays},
          {"choices_finished", c.finished},
          {"finished_across_epochs", c.survived},
          {"choices_failed", c.failed},
          {"failures", std::move(failures)}};
}

void Print(const sim::CampaignResult& result) {
  const sim::WorldCounts& c = result.counts;
  std::printf(
      "%lld worlds, %lld events, %lld steps\n"
      "%lld processes killed, %lld workers lost (%lld of them evicted alive), %lld changes of "
      "epoch, "
      "%lld pauses\n"
      "%lld sequences rewound, %lld replayed with tokens already said\n"
      "%lld choices finished with exactly their text, %lld of them across a change of epoch; "
      "%lld met their deadline or no longer fit\n",
      static_cast<long long>(result.worlds), static_cast<long long>(c.events),
      static_cast<long long>(c.steps), static_cast<long long>(c.deaths),
      static_cast<long long>(c.losses), static_cast<long long>(c.false_alarms),
      static_cast<long long>(c.epochs), static_cast<long long>(c.pauses),
      static_cast<long long>(c.rewinds), static_cast<long long>(c.replays),
      static_cast<long long>(c.finished), static_cast<long long>(c.survived),
      static_cast<long long>(c.failed));
  if (result.failures.empty()) std::puts("no seed failed");
}

// What the failed seeds failed of, how the first one came to that, and how to see the rest.
void Explain(const std::vector<sim::FailedSeed>& failures, const sim::WorldOptions& world) {
  for (const sim::FailedSeed& failed : failures) {
    std::printf("seed %llu failed: %s\n", static_cast<unsigned long long>(failed.seed),
                failed.problem.c_str());
  }
  const std::vector<std::string> trace = sim::Trace(failures.front().seed, world);
  const size_t begin = trace.size() - std::min(trace.size(), kTraceTail);
  std::printf("\nseed %llu, the end of its trace:\n",
              static_cast<unsigned long long>(failures.front().seed));
  for (size_t i = begin; i < trace.size(); ++i) std::printf("  %s\n", trace[i].c_str());
  std::string command = absl::StrCat("shoal simulate --trace ", failures.front().seed);
  if (world.workers > 0) absl::StrAppend(&command, " --workers ", world.workers);
  if (world.holders > 0) absl::StrAppend(&command, " --holders ", world.holders);
  std::printf("\n%zu seeds failed; all of the first: %s\n", failures.size(), command.c_str());
}

absl::Status SimulateMany(const SimulateOptions& options) {
  SHOAL_ASSIGN_OR_RETURN(const auto seeds, ParseSeeds(options.seeds));
  sim::CampaignOptions campaign;
  campaign.first = seeds.first;
  campaign.last = seeds.second;
  campaign.world.workers = options.workers;
  campaign.world.holders = options.holders;
  campaign.threads = options.threads;
  const bool watched = isatty(STDERR_FILENO) == 1;
  if (watched) {
    campaign.progress = [](int64_t worlds, int64_t failed) {
      std::fprintf(stderr, "\r%lld worlds, %lld failed", static_cast<long long>(worlds),
                   static_cast<long long>(failed));
    };
  }
  const sim::CampaignResult result = sim::RunCampaign(campaign);
  if (watched) std::fputs("\r\033[K", stderr);
  if (options.json) {
    std::cout << ToJson(result).dump() << "\n";
  } else {
    Print(result);
    if (!result.failures.empty()) Explain(result.failures, campaign.world);
  }
  if (result.failures.empty()) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(result.failures.size(), " seeds failed"));
}

absl::Status SimulateOne(const SimulateOptions& options) {
  uint64_t seed = 0;
  if (!absl::SimpleAtoi(options.trace, &seed)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--trace: want a seed, 0..", UINT64_MAX, ", found '", options.trace, "'"));
  }
  sim::WorldOptions world;
  world.workers = options.workers;
  world.holders = options.holders;
  const std::vector<std::string> lines = sim::Trace(seed, world);
  for (const std::string& line : lines) std::puts(line.c_str());
  if (lines.empty() || lines.back().rfind("PROBLEM", 0) != 0) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("seed ", seed, " failed"));
}

// Thousands of workers take a minute and more, most of it in a few steps: on a terminal the time
// that goes by is shown.
absl::StatusOr<sim::LargeUnitResult> MeasureWatched(const sim::LargeUnitOptions& options) {
  if (isatty(STDERR_FILENO) != 1) return sim::MeasureDeath(options);
  std::promise<void> over;
  std::thread clock([&options, over = over.get_future()] {
    for (int s = 1; over.wait_for(std::chrono::seconds(1)) == std::future_status::timeout; ++s) {
      std::fprintf(stderr, "\r%d workers, %d s", options.workers, s);
    }
    std::fputs("\r\033[K", stderr);
  });
  absl::StatusOr<sim::LargeUnitResult> result = sim::MeasureDeath(options);
  over.set_value();
  clock.join();
  return result;
}

absl::Status SimulateLarge(SimulateOptions options) {
  options.large.workers = options.workers;
  if (options.holders > 0) options.large.holders = options.holders;
  SHOAL_ASSIGN_OR_RETURN(const sim::LargeUnitResult result, MeasureWatched(options.large));
  const auto ms = [](absl::Duration d) { return absl::ToDoubleMilliseconds(d); };
  if (options.json) {
    std::cout << nlohmann::json{{"workers", options.workers},
                                {"decide_cpu_ms", ms(result.decide_cpu)},
                                {"resume_cpu_ms", ms(result.resume_cpu)},
                                {"replan_cpu_ms", ms(result.decide_cpu + result.resume_cpu)},
                                {"link_cpu_ms", ms(result.link_cpu)},
                                {"step_ms", ms(result.step)},
                                {"gap_ms", ms(result.gap)},
                                {"rewound", result.rewound},
                                {"replayed", result.replayed},
                                {"busiest_over_mean", result.busiest_over_mean}}
                     .dump()
              << "\n";
    return absl::OkStatus();
  }
  std::printf(
      "%d workers, %d holders of each expert: the death of one\n"
      "  re-plan, CPU of the core      %.1f ms (decided in %.1f, resumed in %.1f)\n"
      "  assignments into messages     %.1f ms of CPU\n"
      "  sequences rewound / replayed  %lld / %lld\n"
      "  virtual time without a step   %.1f ms (a step takes %.2f ms)\n"
      "  busiest worker's expert rows  %.2f times the mean\n",
      options.workers, options.large.holders, ms(result.decide_cpu + result.resume_cpu),
      ms(result.decide_cpu), ms(result.resume_cpu), ms(result.link_cpu),
      static_cast<long long>(result.rewound), static_cast<long long>(result.replayed),
      ms(result.gap), ms(result.step), result.busiest_over_mean);
  return absl::OkStatus();
}

absl::Status Simulate(const SimulateOptions& options) {
  if (options.holders > options.workers && options.workers > 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--holders ", options.holders, ": there are ", options.workers, " workers"));
  }
  if (options.workers >= kLargeUnit) return SimulateLarge(options);
  if (!options.trace.empty()) return SimulateOne(options);
  return SimulateMany(options);
}

}  // namespace

void AddSimulateCommand(CLI::App& app, int& exit_code) {
  auto options = std::make_shared<SimulateOptions>();
  CLI::App* command = app.add_subcommand(
      "simulate", "Runs clusters made from seeds, faults included, and checks every event");
  CLI::Option* const seeds =
      command->add_option("--seeds", options->seeds, "Which worlds: A..B")->capture_default_str();
  command
      ->add_option("--workers", options->workers,
                   "Workers of each world; from 32 on one death of a unit of that size is measured "
                   "[default: by seed, 1..5]")
      ->check(CLI::Range(1, 4096));
  CLI::Option* const holders =
      command
          ->add_option("--holders", options->holders, "Holders of each expert [default: by seed]")
          ->check(CLI::Range(1, 64));
  CLI::Option* const trace = command->add_option(
      "--trace", options->trace, "Write down what happens in the world of this seed");
  CLI::Option* const threads =
      command->add_option("--threads", options->threads, "Worlds at a time [default: one per core]")
          ->check(CLI::Range(0, 1024));
  trace->excludes(seeds);
  CLI::Option* const skew =
      command
          ->add_option("--skew", options->large.skew,
                       "Large units: the i-th expert is chosen with a weight of i^-SKEW")
          ->check(CLI::Range(0.0, 4.0))
          ->capture_default_str();
  CLI::Option* const gbit =
      command
          ->add_option("--gbit-per-s", options->large.gbit_per_s,
                       "Large units: bandwidth of each worker; 0: no congestion")
          ->check(CLI::Range(0.0, 10000.0))
          ->capture_default_str();
  command->add_flag("--json", options->json, "One JSON object instead of text");
  command->callback([=, &exit_code] {
    const auto refuse = [&](const CLI::Option* option, absl::string_view why) {
      if (option->empty()) return absl::OkStatus();
      return absl::InvalidArgumentError(absl::StrCat(option->get_name(), " is ", why));
    };
    absl::Status fits;
    const bool large = options->workers >= kLargeUnit;
    for (const CLI::Option* option : {seeds, trace, threads}) {
      if (large) fits.Update(refuse(option, "for units of fewer than 32 workers"));
    }
    for (const CLI::Option* option : {skew, gbit}) {
      if (!large) fits.Update(refuse(option, "for units of 32 workers or more"));
    }
    if (options->workers == 0) fits.Update(refuse(holders, "given without --workers"));
    exit_code = ReportStatus("simulate", fits.ok() ? Simulate(*options) : fits);
  });
}

}  // namespace shoal
