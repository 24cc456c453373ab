// SPDX-License-Identifier: Apache-2.0
// The CPU backend: SIMD chosen at run time, a pool of threads, weights packed at load. Activations
// are bf16 where they enter products, sums f32; residual stream, norms and router f32; the cache
// bf16.
#pragma once

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/device/kernels.h"

namespace shoal {

std::unique_ptr<Kernels> CreateCpuKernels(const BackendOptions& options);

// The instruction sets this machine runs, best first ("avx512_bf16", "avx2", "portable"), and a
// backend that uses one of them instead of the best: for tests. Errors: Unimplemented for one that
// the machine or the build lacks.
std::vector<absl::string_view> CpuInstructionSets();
absl::StatusOr<std::unique_ptr<Kernels>> CreateCpuKernels(const BackendOptions& options,
                                                          absl::string_view instruction_set);

}  // namespace shoal
