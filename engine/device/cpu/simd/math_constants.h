// SPDX-License-Identifier: Apache-2.0
// Constants that portable code and the instruction sets must agree on.
#pragma once

namespace shoal::cpu {

inline constexpr float kLog2E = 1.44269504f;

}  // namespace shoal::cpu
