// SPDX-License-Identifier: Apache-2.0
// The inner loops, compiled for avx2.
#include "engine/device/cpu/simd/make_isa_inl.h"
#include "engine/device/cpu/simd/vec_avx2.h"

namespace shoal::cpu {

namespace {
bool Supported() {
  // Every processor with AVX2 has F16C, which Clang 14 cannot ask for by name.
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
}  // namespace

extern const Isa kAvx2Isa;
constinit const Isa kAvx2Isa = MakeIsa<Avx2>("avx2", Supported);

}  // namespace shoal::cpu
