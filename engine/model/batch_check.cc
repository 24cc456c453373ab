// SPDX-License-Identifier: Apache-2.0
#include "engine/model/batch_check.h"

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/cache/kv_cache.h"

namespace shoal {
namespace {

template <typename... Args>
absl::Status Invalid(const Args&... what) {
  return absl::InvalidArgumentError(absl::StrCat(what...));
}

absl::Status CheckSequence(const AttendSequence& sequence, int64_t first_row,
                           const BatchLimits& limits) {
  if (sequence.first_row != first_row || sequence.row_count < 1 || sequence.start_position < 0) {
    return Invalid("sequence at row ", sequence.first_row, " of ", sequence.row_count,
                   " rows from position ", sequence.start_position, ": want rows from ", first_row);
  }
  const int64_t end = int64_t{sequence.start_position} + sequence.row_count;
  if (end > limits.positions) {
    return Invalid("sequence of ", end, " tokens: want at most ", limits.positions);
  }
  const int64_t blocks = BlocksForTokens(end, limits.block_tokens);
  if (static_cast<int64_t>(sequence.block_table.size()) < blocks) {
    return Invalid("sequence of ", end, " tokens: want ", blocks, " blocks, found ",
                   sequence.block_table.size());
  }
  for (BlockId block : sequence.block_table.subspan(0, blocks)) {
    if (block.value() < 0 || block.value() >= limits.blocks) {
      return Invalid("block ", block.value(), ": want 0..", limits.blocks - 1);
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckBatch(const Batch& batch, const BatchLimits& limits) {
  const int64_t rows = static_cast<int64_t>(batch.tokens.size());
  const int64_t wanted = static_cast<int64_t>(batch.logit_rows.size());
  if (rows > limits.max_rows || wanted > limits.max_logit_rows) {
    return Invalid("step of ", rows, " rows, logits of ", wanted, ": want at most ",
                   limits.max_rows, " and ", limits.max_logit_rows);
  }
  for (int32_t token : batch.tokens) {
    if (token < 0 || token >= limits.vocab_size) {
      return Invalid("token ", token, ": want 0..", limits.vocab_size - 1);
    }
  }
  int64_t covered = 0;
  for (const AttendSequence& sequence : batch.sequences) {
    SHOAL_RETURN_IF_ERROR(CheckSequence(sequence, covered, limits));
    covered += sequence.row_count;
  }
  if (covered != rows) return Invalid("step of ", rows, " rows: its sequences cover ", covered);
  int32_t last = -1;
  for (int32_t row : batch.logit_rows) {
    if (row <= last || row >= rows) {
      return Invalid("logits of row ", row, " after row ", last, ": want ascending rows of ", rows);
    }
    last = row;
  }
  return absl::OkStatus();
}

}  // namespace shoal
