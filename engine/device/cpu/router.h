// SPDX-License-Identifier: Apache-2.0
// Router logits, and the choice of experts from them.
#pragma once

#include "engine/config/model_config.h"
#include "engine/device/cpu/context.h"

namespace shoal::cpu {

// See Kernels::RouterLogits. w as stored: BF16, F16 or F32.
void RouterLogits(Context& context, TensorView x, TensorView w, TensorView logits);

// See Kernels::Route. NaN logits count as the least; always K different experts.
void Route(Context& context, const RouterConfig& config, TensorView logits, TensorView bias,
           TensorView experts, TensorView weights);

}  // namespace shoal::cpu
