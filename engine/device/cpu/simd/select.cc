// SPDX-License-Identifier: Apache-2.0
// Which of the instruction sets compiled into this build the machine runs.
#include "engine/device/cpu/simd/isa.h"

namespace shoal::cpu {

#if defined(__x86_64__)
extern const Isa kAvx512Bf16Isa;
extern const Isa kAvx2Isa;
#endif
extern const Isa kPortableIsa;

IsaList SupportedIsas() {
  IsaList list;
#if defined(__x86_64__)
  const Isa* const candidates[] = {&kAvx512Bf16Isa, &kAvx2Isa};
  for (const Isa* isa : candidates) {
    if (isa->supported()) list.isas[list.count++] = isa;
  }
#endif
  list.isas[list.count++] = &kPortableIsa;
  return list;
}

}  // namespace shoal::cpu
