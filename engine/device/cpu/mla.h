// SPDX-License-Identifier: Apache-2.0
// What surrounds latent attention: products per head, queries into the latent space, rows into the
// cache.
#pragma once

#include "engine/device/cpu/context.h"
#include "engine/device/kernels.h"

namespace shoal::cpu {

void LinearHeads(Context& context, TensorView x, const PackedWeight& w, TensorView y);
void MlaAppend(Context& context, const MlaAppendParams& params);
void MlaQuery(Context& context, const MlaQueryParams& params);

}  // namespace shoal::cpu
