// SPDX-License-Identifier: Apache-2.0
// `shoal worker`: one rank of a cluster, in a process of its own. Dials the coordinator; under
// mpirun, too.
#include "worker/worker.h"

#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "deploy/shoal/commands.h"
#include "deploy/shoal/config_fields.h"
#include "deploy/shoal/cores.h"
#include "deploy/shoal/fingerprint.h"
#include "deploy/shoal/logging.h"
#include "deploy/shoal/memory_ledger.h"
#include "deploy/shoal/stop_signal.h"
#include "deploy/shoal/supervisor.h"
#include "deploy/shoal/worker_options.h"
#include "engine/base/status_macros.h"
#include "engine/config/read_model_config.h"
#include "spdlog/spdlog.h"

namespace shoal {
namespace {

// Sets `told` when an error it returns is one that the coordinator knows.
absl::Status Work(ShoalConfig config, bool& told) {
  if (config.exit_with_parent) prctl(PR_SET_PDEATHSIG, SIGKILL);
  StopSignal stop;
  StartLogging(config.log_level);
  if (config.threads == 0) config.threads = UsableCores();
  if (!config.supervised) spdlog::info("configuration:\n{}", ConfigToYaml(config, kWorker));
  SHOAL_ASSIGN_OR_RETURN(const ModelConfig model, ReadModelConfig(config.model));
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> checkpoint,
                         Checkpoint::Open(config.model));
  SHOAL_ASSIGN_OR_RETURN(const std::string fingerprint, ModelFingerprint(*checkpoint));
  // Which experts will be held here is the coordinator's to say, later: by default the cache takes
  // a quarter of what is free now, at most, and check_memory sees whether the weights fit beside
  // it.
  const int64_t available = AvailableMemory();
  SHOAL_ASSIGN_OR_RETURN(const int64_t cache_blocks,
                         CacheBlocks(config, model, available, available / 2));
  WorkerOptions options = MakeWorkerOptions(config, model, fingerprint, cache_blocks);
  if (const char* name = std::getenv(kSupervisedAs); name != nullptr && config.supervised) {
    options.supervised_as = name;
  }
  if (!config.supervised) {
    // `serve` has counted for all its workers already.
    options.check_memory = [&](const ExpertPlacement& placement, RankId rank) -> absl::Status {
      SHOAL_ASSIGN_OR_RETURN(
          const MemoryLedger ledger,
          WorkerMemory(config, model, *checkpoint, placement, rank, cache_blocks));
      return CheckMemory({ledger}, AvailableMemory());
    };
  }
  Worker worker(std::move(options));
  // The worker has a thread of its own, so that this one can wait for signals.
  absl::Status result;
  std::thread thread([&] {
    result = worker.Run();
    stop.Fail(absl::CancelledError());
  });
  (void)stop.Wait(absl::InfiniteFuture());
  // What may hang from here on (a load, a peer that MPI waits for) is of no use to anybody.
  std::signal(SIGALRM, [](int) { _exit(1); });
  alarm(5);
  worker.Stop();
  thread.join();
  told = worker.coordinator_knows();
  return result;
}

}  // namespace

void AddWorkerCommand(CLI::App& app, int& exit_code) {
  CLI::App* command = app.add_subcommand("worker", "One rank of a cluster; dials the coordinator");
  auto flags = std::make_shared<ConfigFlags>(*command, kWorker);
  command->callback([flags, &exit_code] {
    absl::StatusOr<ShoalConfig> config = flags->Resolve();
    if (!config.ok()) {
      exit_code = ReportStatus("worker", config.status());
      return;
    }
    // `serve` says once what its workers told it.
    const bool supervised = config->supervised;
    bool told = false;
    const absl::Status status = Work(*std::move(config), told);
    exit_code = supervised && told ? 1 : ReportStatus("worker", status);
  });
}

}  // namespace shoal
