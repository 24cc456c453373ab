// SPDX-License-Identifier: Apache-2.0
// Events and commands in one line each, for traces.
#pragma once

#include <string>

#include "coordinator/core/events.h"

namespace shoal::sim {

std::string Describe(const Event& event);
std::string Describe(const Command& command);

}  // namespace shoal::sim
