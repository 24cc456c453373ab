// SPDX-License-Identifier: Apache-2.0
// Philox4x32-10, a counter-based generator (Salmon et al., "Parallel random numbers: as easy as 1,
// 2, 3", SC 2011): the value is a function of key and counter, so a token's randomness depends on
// its seed and position and nothing else.
#pragma once

#include <array>
#include <cstdint>

namespace shoal {

std::array<uint32_t, 4> Philox4x32(uint64_t key, std::array<uint32_t, 4> counter);

// Uniform in [0, 1), 53 bits: the draw for the token at `position` of a sequence with this seed.
double UniformAt(uint64_t seed, uint64_t position);

}  // namespace shoal
