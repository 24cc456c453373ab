// SPDX-License-Identifier: Apache-2.0
// The executable specification: every operation of kernels.h in plain scalar f32, on one thread.
#pragma once

#include <memory>

#include "engine/device/kernels.h"

namespace shoal {

std::unique_ptr<Kernels> CreateReferenceKernels();

}  // namespace shoal
