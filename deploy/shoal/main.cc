// SPDX-License-Identifier: Apache-2.0
// shoal: one program with subcommands. This folder is the only one that knows every concrete class.
#include <cstdio>

#include "absl/synchronization/mutex.h"
#include "deploy/shoal/build_id.h"
#include "deploy/shoal/commands.h"

int main(int argc, char** argv) {
  // Debian builds Abseil with its deadlock detector on, which makes every lock four times as long and
  // all of them meet at one spin lock. The tests keep it.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  CLI::App app{"Shoal serves Mixture-of-Experts models on clusters, exactly."};
  app.set_version_flag("--version", "shoal " + shoal::BuildId());
  app.require_subcommand(1);
  int exit_code = 0;
  shoal::AddServeCommand(app, exit_code);
  shoal::AddCoordinatorCommand(app, exit_code);
  shoal::AddWorkerCommand(app, exit_code);
  shoal::AddStatusCommand(app, exit_code);
  shoal::AddGuardCommand(app, exit_code);
  shoal::AddInspectCommand(app, exit_code);
  shoal::AddRunCommand(app, exit_code);
  shoal::AddScoreCommand(app, exit_code);
  shoal::AddTokenizeCommand(app, exit_code);
  shoal::AddBenchCommand(app, exit_code);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (argc > 1 && argv[1][0] != '-' && app.get_subcommands().empty()) {
      std::fprintf(stderr, "shoal: no such subcommand: '%s'\nRun with --help for a list.\n",
                   argv[1]);
      return 2;
    }
    const int code = app.exit(error);
    return code == 0 ? 0 : 2;
  }
  return exit_code;
}
