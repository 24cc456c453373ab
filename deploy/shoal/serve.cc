// SPDX-License-Identifier: Apache-2.0
// `shoal serve`: a coordinator, its API and all its workers on this machine.
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "deploy/shoal/commands.h"
#include "deploy/shoal/config_fields.h"
#include "deploy/shoal/cores.h"
#include "deploy/shoal/head.h"
#include "deploy/shoal/local_workers.h"
#include "deploy/shoal/logging.h"
#include "deploy/shoal/memory_ledger.h"
#include "deploy/shoal/served_model.h"
#include "deploy/shoal/stop_signal.h"
#include "engine/base/status_macros.h"
#include "engine/base/steady_clock.h"
#include "spdlog/spdlog.h"

namespace shoal {
namespace {

constexpr absl::Duration kFarewell = absl::Seconds(2);  // for workers to leave by themselves
constexpr absl::Duration kGrace = absl::Seconds(3);     // from SIGTERM to SIGKILL

// Sets threads and cache_blocks for each of the workers; refuses what does not fit into memory.
absl::Status ShareTheMachine(const ServedModel& model, ShoalConfig& config) {
  if (config.threads == 0) config.threads = std::max(UsableCores() / config.workers, 1);
  const int64_t available = AvailableMemory();
  int64_t largest = 0;
  for (int rank = 0; rank < config.workers; ++rank) {
    SHOAL_ASSIGN_OR_RETURN(
        const MemoryLedger bare,
        WorkerMemory(config, model.config, *model.checkpoint, *model.placement, RankId(rank), 0));
    largest = std::max(largest, bare.total());
  }
  SHOAL_ASSIGN_OR_RETURN(config.cache_blocks,
                         CacheBlocks(config, model.config, available / config.workers, largest));
  config.cache_memory.clear();
  std::vector<MemoryLedger> ledgers;
  for (int rank = 0; rank < config.workers; ++rank) {
    SHOAL_ASSIGN_OR_RETURN(ledgers.emplace_back(),
                           WorkerMemory(config, model.config, *model.checkpoint, *model.placement,
                                        RankId(rank), config.cache_blocks));
  }
  SHOAL_RETURN_IF_ERROR(CheckMemory(ledgers, available));
  spdlog::info("memory of rank 0 (of {} MiB available for {} workers):\n{}", available >> 20,
               config.workers, ledgers[0].ToString());
  return absl::OkStatus();
}

absl::Status Serve(ShoalConfig config) {
  StopSignal stop;
  StartLogging(config.log_level);
  spdlog::info("configuration:\n{}", ConfigToYaml(config, kServe));
  SHOAL_RETURN_IF_ERROR(Head::CheckFiles(config));
  SHOAL_ASSIGN_OR_RETURN(const ServedModel model, OpenServedModel(config));
  SHOAL_RETURN_IF_ERROR(ShareTheMachine(model, config));

  LocalWorkers workers(config, model, stop);
  HeadObservers observers;
  observers.on_failure = [&](const WorkerIdentity& worker, const absl::Status& why) {
    workers.OnFailure(worker, why);
  };
  observers.on_evicted = [&](const WorkerIdentity& worker, const absl::Status& why) {
    workers.OnEvicted(worker, why);
  };
  observers.on_joined = [&](const WorkerIdentity& worker) { workers.OnJoined(worker); };
  observers.on_snapshot = [&](const ClusterSnapshot& snapshot) { workers.OnSnapshot(snapshot); };
  SHOAL_ASSIGN_OR_RETURN(std::unique_ptr<Head> head,
                         Head::Create(config, model, std::move(observers)));
  absl::Status status = workers.Start(head->cluster_address());
  if (status.ok()) status = head->Run(stop, [&] { workers.ClusterHasServed(); });
  workers.StopRestarting();
  head->Stop(SteadyNow() + kFarewell);
  workers.Stop(kGrace);
  return status;
}

}  // namespace

void AddServeCommand(CLI::App& app, int& exit_code) {
  CLI::App* command = app.add_subcommand("serve", "A local cluster: coordinator, API and workers");
  auto flags = std::make_shared<ConfigFlags>(*command, kServe);
  command->callback([flags, &exit_code] {
    absl::StatusOr<ShoalConfig> config = flags->Resolve();
    exit_code = ReportStatus("serve", config.ok() ? Serve(*std::move(config)) : config.status());
  });
}

}  // namespace shoal
