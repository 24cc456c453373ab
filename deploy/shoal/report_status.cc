// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <string>

#include "deploy/shoal/commands.h"

namespace shoal {

int ReportStatus(absl::string_view command, const absl::Status& status) {
  if (status.ok()) return 0;
  std::fprintf(stderr, "shoal %s: %s\n", std::string(command).c_str(),
               std::string(status.message()).c_str());
  return 1;
}

}  // namespace shoal
