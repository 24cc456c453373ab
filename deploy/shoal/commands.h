// SPDX-License-Identifier: Apache-2.0
// The subcommands of the one program. Each adds itself to `app`, with its flags, and when chosen
// runs and stores the process's exit code: 0 done, 1 failed (one line on stderr says why), 2 wrong
// usage.
#pragma once

#include <CLI/CLI.hpp>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace shoal {

void AddBenchCommand(CLI::App& app, int& exit_code);
void AddCoordinatorCommand(CLI::App& app, int& exit_code);
void AddGuardCommand(CLI::App& app, int& exit_code);
void AddInspectCommand(CLI::App& app, int& exit_code);
void AddRunCommand(CLI::App& app, int& exit_code);
void AddScoreCommand(CLI::App& app, int& exit_code);
void AddServeCommand(CLI::App& app, int& exit_code);
void AddSimulateCommand(CLI::App& app, int& exit_code);
void AddStatusCommand(CLI::App& app, int& exit_code);
void AddTokenizeCommand(CLI::App& app, int& exit_code);
void AddWorkerCommand(CLI::App& app, int& exit_code);

// The exit code for `status`; says what failed on stderr: "shoal inspect: <message>".
int ReportStatus(absl::string_view command, const absl::Status& status);

}  // namespace shoal
