// SPDX-License-Identifier: Apache-2.0
// `shoal guard PROGRAM...`, hidden: runs a program that must be asked to end, once. mpirun is one:
// at the first SIGTERM it ends its ranks and removes its files, at a second one it leaves them
// behind. But the kernel's signal at a parent's death (PR_SET_PDEATHSIG) is sent once for every
// thread that dies with it. So the supervisor's child is this guard, which may be killed in any
// way, and the program is the guard's, which has one thread.
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "deploy/shoal/commands.h"

namespace shoal {
namespace {

int Guard(std::vector<std::string> command) {
  std::vector<char*> argv;
  for (std::string& word : command) argv.push_back(word.data());
  argv.push_back(nullptr);
  sigset_t watched;
  sigset_t before;
  sigemptyset(&watched);
  for (int signal : {SIGTERM, SIGINT, SIGCHLD}) sigaddset(&watched, signal);
  sigprocmask(SIG_BLOCK, &watched, &before);
  const pid_t self = getpid();
  const pid_t child = fork();
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != self) _exit(125);
    sigprocmask(SIG_SETMASK, &before, nullptr);
    execvp(argv[0], argv.data());
    ReportStatus("guard",
                 absl::NotFoundError(absl::StrCat(command[0], ": ", std::strerror(errno))));
    _exit(127);
  }
  if (child < 0) {
    return ReportStatus("guard", absl::InternalError(absl::StrCat("fork: ", std::strerror(errno))));
  }
  bool asked = false;
  while (true) {
    int status = 0;
    if (waitpid(child, &status, WNOHANG) == child) {
      return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    }
    int signal = 0;
    sigwait(&watched, &signal);
    if (signal == SIGCHLD || asked) continue;
    asked = true;
    kill(child, SIGTERM);
  }
}

}  // namespace

void AddGuardCommand(CLI::App& app, int& exit_code) {
  CLI::App* command = app.add_subcommand("guard", "Runs a program that must be asked to end once");
  command->group("");  // not for people
  command->prefix_command();
  command->callback([command, &exit_code] {
    const std::vector<std::string> program = command->remaining();
    exit_code = program.empty() ? 2 : Guard(program);
  });
}

}  // namespace shoal
