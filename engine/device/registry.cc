// SPDX-License-Identifier: Apache-2.0
// The backends of this build, by name: the one place that names each of them.
#include "absl/strings/str_cat.h"
#include "engine/device/cpu/cpu_kernels.h"
#include "engine/device/kernels.h"
#include "engine/device/reference/reference_kernels.h"

namespace shoal {

absl::StatusOr<std::unique_ptr<Kernels>> CreateKernels(absl::string_view name,
                                                       const BackendOptions& options) {
  if (options.threads < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("threads: want 0 or more, found ", options.threads));
  }
  if (name == "reference") return CreateReferenceKernels();
  if (name == "cpu") return CreateCpuKernels(options);
  for (absl::string_view known : {"cuda", "ascend"}) {
    if (name == known)
      return absl::UnimplementedError(absl::StrCat("this build lacks the ", name, " backend"));
  }
  return absl::InvalidArgumentError(absl::StrCat("backend: want reference or cpu, found ", name));
}

}  // namespace shoal
