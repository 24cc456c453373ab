// SPDX-License-Identifier: Apache-2.0
// The inner loops, compiled for portable.
#include "engine/device/cpu/simd/make_isa_inl.h"
#include "engine/device/cpu/simd/vec_portable.h"

namespace shoal::cpu {

namespace {
bool Supported() { return true; }
}  // namespace

extern const Isa kPortableIsa;
constinit const Isa kPortableIsa = MakeIsa<Portable>("portable", Supported);

}  // namespace shoal::cpu
