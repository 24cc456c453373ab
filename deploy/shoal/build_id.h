// SPDX-License-Identifier: Apache-2.0
// Which program this is, to the bit.
#pragma once

#include <string>

namespace shoal {

// "0.1.0-1f2e3d4c5b6a": the version, and the first digits of the id that the linker computes from
// the program's contents. Coordinator and workers of one cluster must have the same.
std::string BuildId();

}  // namespace shoal
