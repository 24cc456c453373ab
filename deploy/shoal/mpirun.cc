// SPDX-License-Identifier: Apache-2.0
#include "deploy/shoal/mpirun.h"

#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace shoal {

std::vector<std::string> MpirunCommand(int ranks, bool outlive) {
  std::vector<std::string> command = {
      "mpirun", "--quiet", "--allow-run-as-root", "--oversubscribe",     "--bind-to",
      "none",   "--mca",   "mpi_yield_when_idle", "1"};
  if (outlive) command.push_back("--enable-recovery");
  command.insert(command.end(), {"-n", absl::StrCat(ranks)});
  return command;
}

bool IsMpiRank() {
  return std::getenv("OMPI_COMM_WORLD_RANK") != nullptr || std::getenv("PMIX_RANK") != nullptr;
}

std::string OwnPath() {
  char path[4096];
  const ssize_t size = readlink("/proc/self/exe", path, sizeof(path));
  const absl::string_view name(path, size > 0 ? size : 0);
  if (name.empty() || absl::EndsWith(name, " (deleted)")) {
    return absl::StrCat("/proc/", getpid(), "/exe");
  }
  return std::string(name);
}

absl::Status BecomeMpirun(int ranks) {
  std::vector<std::string> command = MpirunCommand(ranks, /*outlive=*/false);
  command.push_back(OwnPath());
  std::ifstream in("/proc/self/cmdline", std::ios::binary);
  std::string argument;
  std::getline(in, argument, '\0');  // our name
  while (std::getline(in, argument, '\0')) command.push_back(argument);
  std::vector<char*> argv;
  for (std::string& word : command) argv.push_back(word.data());
  argv.push_back(nullptr);
  execvp(argv[0], argv.data());
  return absl::NotFoundError(absl::StrCat("transport mpi needs mpirun: ", std::strerror(errno)));
}

}  // namespace shoal
