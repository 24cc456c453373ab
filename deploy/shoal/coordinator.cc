// SPDX-License-Identifier: Apache-2.0
// `shoal coordinator`: the head of a cluster whose workers are started elsewhere and dial in.
#include <memory>

#include "absl/strings/str_cat.h"
#include "deploy/shoal/commands.h"
#include "deploy/shoal/config_fields.h"
#include "deploy/shoal/head.h"
#include "deploy/shoal/logging.h"
#include "deploy/shoal/served_model.h"
#include "deploy/shoal/stop_signal.h"
#include "engine/base/status_macros.h"
#include "engine/base/steady_clock.h"
#include "spdlog/spdlog.h"

namespace shoal {
namespace {

absl::Status Coordinate(const ShoalConfig& config) {
  StopSignal stop;
  StartLogging(config.log_level);
  spdlog::info("configuration:\n{}", ConfigToYaml(config, kCoordinator));
  SHOAL_RETURN_IF_ERROR(Head::CheckFiles(config));
  SHOAL_ASSIGN_OR_RETURN(ServedModel model, OpenServedModel(config));
  // Who is on which host is known when the workers have dialled in: then the core plans.
  if (config.placement.empty()) model.placement = nullptr;
  HeadObservers observers;
  observers.on_failure = [](const WorkerIdentity& worker, const absl::Status& why) {
    spdlog::error("worker {} on {}: {}", worker.pid, worker.host, std::string(why.message()));
  };
  observers.on_evicted = [](const WorkerIdentity& worker, const absl::Status& why) {
    spdlog::warn("worker {} on {} evicted: {}", worker.pid, worker.host,
                 std::string(why.message()));
  };
  SHOAL_ASSIGN_OR_RETURN(std::unique_ptr<Head> head,
                         Head::Create(config, model, std::move(observers)));
  spdlog::info("waiting for {} workers: shoal worker --model DIR --coordinator {}", config.workers,
               head->cluster_address());
  const absl::Status status = head->Run(stop, [] {});
  head->Stop(SteadyNow() + absl::Seconds(2));
  return status;
}

}  // namespace

void AddCoordinatorCommand(CLI::App& app, int& exit_code) {
  CLI::App* command =
      app.add_subcommand("coordinator", "The head of a cluster: API and scheduling");
  auto flags = std::make_shared<ConfigFlags>(*command, kCoordinator);
  command->callback([flags, &exit_code] {
    const absl::StatusOr<ShoalConfig> config = flags->Resolve();
    exit_code = ReportStatus("coordinator", config.ok() ? Coordinate(*config) : config.status());
  });
}

}  // namespace shoal
