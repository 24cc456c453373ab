// SPDX-License-Identifier: Apache-2.0
// Log lines: to stderr, through one logger, gRPC's included.
#pragma once

#include <string>

namespace shoal {

// `level`: trace, debug, info, warn, error, off. Once, before threads are started.
void StartLogging(const std::string& level);

}  // namespace shoal
