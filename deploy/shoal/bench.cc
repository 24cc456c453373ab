// SPDX-License-Identifier: Apache-2.0
// `shoal bench`: prefill and decode rates of a checkpoint on this machine, beside what the machine
// can do at best, measured between the runs. With --workers the ranks are processes that share the
// experts, as in a local cluster.
#include <sys/utsname.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "deploy/shoal/bench_unit.h"
#include "deploy/shoal/build_id.h"
#include "deploy/shoal/commands.h"
#include "deploy/shoal/cores.h"
#include "engine/base/status_macros.h"
#include "engine/config/model_cost.h"
#include "engine/config/read_model_config.h"
#include "engine/device/cpu/machine_limits.h"

namespace shoal {
namespace {

using Json = nlohmann::ordered_json;

std::string ProcessorName() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    const std::pair<std::string, std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 1));
    if (absl::StripSuffix(parts.first, "\t") == "model name")
      return std::string(absl::StripLeadingAsciiWhitespace(parts.second));
  }
  utsname name;
  return uname(&name) == 0 ? name.machine : "unknown";
}

// Runs a phase `repeat` times, reading the memory's bandwidth before and after each. A shared host
// slows down and recovers within seconds, so a run is compared with the readings around it.
struct Measured {
  double seconds = 0;    // of the fastest run
  double bandwidth = 0;  // the larger reading around it
};

absl::StatusOr<Measured> Measure(BenchUnit& unit, BenchPhase phase, int repeat,
                                 cpu::MachineLimits& limits) {
  Measured best;
  for (int i = 0; i < repeat; ++i) {
    double bandwidth = limits.ReadBandwidth();
    const auto start = std::chrono::steady_clock::now();
    SHOAL_RETURN_IF_ERROR(unit.Run(phase));
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    bandwidth = std::max(bandwidth, limits.ReadBandwidth());
    if (i == 0 || seconds < best.seconds) best = {seconds, bandwidth};
  }
  return best;
}

bool LimitsUnreliable(const Json& result) {
  for (const char* key : {"percent_of_peak", "percent_of_bandwidth"}) {
    if (result.contains(key) && result[key].get<double>() > 100) return true;
  }
  return false;
}

absl::Status Bench(const BenchOptions& options) {
  SHOAL_ASSIGN_OR_RETURN(const ModelConfig config, ReadModelConfig(options.model));
  if (options.workers > std::max(1, config.MaxRoutedExperts())) {
    return absl::InvalidArgumentError(absl::StrCat("workers: want at most one per expert (",
                                                   config.MaxRoutedExperts(), "), found ",
                                                   options.workers));
  }
  const int64_t longest = int64_t{options.context} + std::max(options.prompt, options.decode);
  if (longest > config.max_position_embeddings) {
    return absl::InvalidArgumentError(
        absl::StrCat("context and prompt or decode: want at most ", config.max_position_embeddings,
                     " positions (max_position_embeddings), found ", longest));
  }
  if (options.batch > options.chunk * options.workers) {
    return absl::InvalidArgumentError(
        absl::StrCat("batch: want at most chunk * workers = ", options.chunk * options.workers,
                     ", found ", options.batch));
  }
  // Forks: before anything starts a thread.
  SHOAL_ASSIGN_OR_RETURN(const auto unit, BenchUnit::Create(options, config));
  SHOAL_ASSIGN_OR_RETURN(const auto limits, cpu::MachineLimits::Create(UsableCores()));
  SHOAL_RETURN_IF_ERROR(unit->Run(BenchPhase::kContext));

  const ModelCost cost = ComputeModelCost(config);
  Json result = {{"model", options.model},
                 {"generation", std::string(GenerationName(config.generation))},
                 {"build", BuildId()},
                 {"hardware", absl::StrCat(UsableCores(), " x ", ProcessorName())},
                 {"numerics", unit->kernels().numerics()},
                 {"workers", options.workers},
                 {"transport", options.workers > 1 ? options.transport : "none"},
                 {"threads_per_worker", options.threads > 0 ? options.threads : UsableCores()},
                 {"prompt", options.prompt},
                 {"decode", options.decode},
                 {"batch", options.batch},
                 {"context", options.context}};
  const double peak = limits->Bf16Peak();
  result["bf16_peak_gflops"] = peak / 1e9;
  if (options.prompt > 0) {
    SHOAL_ASSIGN_OR_RETURN(const Measured prefill,
                           Measure(*unit, BenchPhase::kPrefill, options.repeat, *limits));
    // Products with weights only; the head is needed once per prompt and not counted.
    const double flops = 2.0 * static_cast<double>(cost.active_parameters -
                                                   int64_t{config.vocab_size} * config.hidden_size);
    const double rate = static_cast<double>(options.batch) * options.prompt / prefill.seconds;
    result["prefill_tokens_per_s"] = rate;
    result["prefill_flops_per_token"] = flops;
    result["prefill_gflops"] = rate * flops / 1e9;
    result["percent_of_peak"] = 100 * rate * flops / std::max(peak, limits->Bf16Peak());
  }
  if (options.decode > 0) {
    SHOAL_ASSIGN_OR_RETURN(const Measured decode,
                           Measure(*unit, BenchPhase::kDecode, options.repeat, *limits));
    const double steps = options.decode / decode.seconds;
    const double weights = cost.BytesPerStep(options.batch, 0);
    const double bytes = cost.BytesPerStep(options.batch, options.context + options.decode / 2);
    result["decode_tokens_per_s"] = steps * options.batch;
    result["decode_ms_per_step"] = 1000 / steps;
    result["read_bandwidth_gb_per_s"] = decode.bandwidth / 1e9;
    result["weight_bytes_per_step"] = weights;
    result["bytes_per_step"] = bytes;  // and the cache
    result["percent_of_bandwidth"] = 100 * steps * weights / decode.bandwidth;
    result["percent_of_bandwidth_with_cache"] = 100 * steps * bytes / decode.bandwidth;
  }
  // Above 100 %: the limits were read while others used the machine, or the weights never left its
  // caches. Either way the shares say nothing.
  const bool unreliable = LimitsUnreliable(result);
  result["limits_unreliable"] = unreliable;
  if (options.json) {
    std::printf("%s\n", result.dump().c_str());
  } else {
    for (const auto& [key, value] : result.items()) {
      std::printf("%-32s %s\n", key.c_str(),
                  value.is_number_float() ? absl::StrFormat("%.6g", value.get<double>()).c_str()
                  : value.is_string()     ? value.get<std::string>().c_str()
                                          : value.dump().c_str());
    }
    if (unreliable) {
      std::printf(
          "note: above 100 %% of a limit: the machine was busy while its limits were measured, or the "
          "weights fit in its caches\n");
    }
  }
  return absl::OkStatus();
}

}  // namespace

void AddBenchCommand(CLI::App& app, int& exit_code) {
  auto options = std::make_shared<BenchOptions>();
  CLI::App* command = app.add_subcommand(
      "bench", "Prefill and decode rates, beside the machine's limits measured in the same run");
  command->add_option("--model", options->model, "Hugging Face directory")->required();
  command->add_option("--prompt", options->prompt, "Tokens to prefill, per sequence; 0: skip")
      ->check(CLI::Range(0, 1 << 24))
      ->capture_default_str();
  command->add_option("--decode", options->decode, "Steps to decode; 0: skip")
      ->check(CLI::Range(0, 1 << 24))
      ->capture_default_str();
  command->add_option("--batch", options->batch, "Sequences")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  command->add_option("--context", options->context, "Tokens in each cache beforehand")
      ->check(CLI::Range(0, 1 << 24))
      ->capture_default_str();
  command->add_option("--chunk", options->chunk, "Rows of one step on one worker at most")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  command->add_option("--workers", options->workers, "Processes that share the experts")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  command->add_option("--transport", options->transport, "Between workers: shm or grpc")
      ->check(CLI::IsMember({"shm", "grpc"}))
      ->capture_default_str();
  command->add_option("--backend", options->backend, "reference or cpu")
      ->check(CLI::IsMember({"reference", "cpu"}))
      ->capture_default_str();
  command->add_option("--threads", options->threads, "Of each worker; 0: as many as cores")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
  command->add_option("--repeat", options->repeat, "Runs of each kind; the fastest counts")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->add_flag("--fp8-activations", options->fp8_activations,
                    "Official FP8 numerics: activations quantised as well");
  command->add_flag("--json", options->json, "One JSON object");
  command->callback([options, &exit_code] { exit_code = ReportStatus("bench", Bench(*options)); });
}

}  // namespace shoal
