// SPDX-License-Identifier: Apache-2.0
// Finds values that no trained weight has: one of them makes every logit a NaN, long after loading.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "engine/tensor/tensor.h"

namespace shoal {

// Index of the first NaN or infinity of a contiguous floating-point tensor; -1 if all are finite.
// Runs at the memory's rate: looks at exponents only, and at single values only where it found one.
int64_t FirstNonFinite(TensorView tensor);

// "model.norm.weight: holds NaN at [17]", for what FirstNonFinite found.
std::string DescribeNonFinite(absl::string_view name, TensorView tensor, int64_t index);

}  // namespace shoal
