// SPDX-License-Identifier: Apache-2.0
// Whether a batch can be computed at all. Batches come from plans and plans from the network, so
// nothing in them is believed.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "engine/model/model.h"

namespace shoal {

struct BatchLimits {
  int64_t max_rows = 0;
  int64_t max_logit_rows = 0;
  int64_t vocab_size = 0;
  int64_t positions = 0;  // of the model and of the cache: tokens of one sequence at most
  int64_t blocks = 0;     // of the cache
  int block_tokens = 0;
};

// Errors: InvalidArgument naming the first thing that does not hold together.
absl::Status CheckBatch(const Batch& batch, const BatchLimits& limits);

}  // namespace shoal
