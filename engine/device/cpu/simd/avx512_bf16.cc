// SPDX-License-Identifier: Apache-2.0
// The inner loops, compiled for avx512_bf16.
#include "engine/device/cpu/simd/make_isa_inl.h"
#include "engine/device/cpu/simd/vec_avx512_bf16.h"

namespace shoal::cpu {

namespace {
bool Supported() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512bf16");
}
}  // namespace

extern const Isa kAvx512Bf16Isa;
constinit const Isa kAvx512Bf16Isa = MakeIsa<Avx512Bf16>("avx512_bf16", Supported);

}  // namespace shoal::cpu
