// SPDX-License-Identifier: Apache-2.0
#include "deploy/shoal/cores.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <string>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace shoal {
namespace {

// "200000 100000": microseconds of time in each period; "max": no limit.
int Quota(int cores) {
  std::ifstream in("/proc/self/cgroup");
  for (std::string line; std::getline(in, line);) {
    if (!absl::StartsWith(line, "0::")) continue;
    std::ifstream limits(absl::StrCat("/sys/fs/cgroup", line.substr(3), "/cpu.max"));
    std::string time;
    double period = 0;
    double allowed = 0;
    if ((limits >> time >> period) && absl::SimpleAtod(time, &allowed) && period > 0) {
      cores = std::min(cores, static_cast<int>(std::ceil(allowed / period)));
    }
  }
  return cores;
}

}  // namespace

int UsableCores() {
  cpu_set_t set;
  int cores = static_cast<int>(std::thread::hardware_concurrency());
  if (sched_getaffinity(0, sizeof(set), &set) == 0) cores = CPU_COUNT(&set);
  return std::max(Quota(cores), 1);
}

}  // namespace shoal
