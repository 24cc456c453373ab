// SPDX-License-Identifier: Apache-2.0
// Absorbed latent attention over the paged cache, prefill and decode alike.
//
// A context is cut at absolute positions: tiles of 64, segments of 512. Within a segment tiles are
// folded in order by online softmax; segments are folded in order into the result. So the bits of a
// row depend on its query and its context only: not on block_tokens, on rows beside it, on how a
// prompt was chunked, nor on whether segments were computed one after another or by several
// threads.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/device/cpu/context.h"
#include "engine/device/kernels.h"

namespace shoal::cpu {

class Attention {
 public:
  absl::Status Reserve(Context& context, int64_t max_rows, int64_t heads, int64_t width,
                       int64_t value_width);
  void Run(Context& context, const MlaAttendParams& params);

 private:
  // Sixteen heads of one row.
  struct Column {
    const AttendSequence* sequence;
    int64_t row;      // in the step
    int64_t head;     // first head
    int64_t context;  // positions it sees
    int64_t partial;  // segments of columns before it, when segments are computed apart
  };
  // Columns [first, first + count) of one sequence, which share every tile they read.
  struct Group {
    int64_t first;
    int64_t count;
  };
  struct Shape;  // of one call
  class Worker;  // one thread's scratch, laid out

  void RunGroups(Context& context, const Shape& shape);
  void RunSegments(Context& context, const Shape& shape);

  std::vector<Column> columns_;
  std::vector<Group> groups_;
};

}  // namespace shoal::cpu
