// SPDX-License-Identifier: Apache-2.0
// What the bytes of an exchange mean. A token's row travels once to each rank that holds any of its
// experts, with the list of them; back comes one row per (row, expert) pair, in the order in which
// the pairs went.
//
//   dispatch:  DispatchHeader | pairs, 8 bytes each | padding to 64 | rows, row_bytes each
//   combine:   CombineHeader  | padding to 64       | rows, row_bytes each
//
// All integers little-endian, both sides of one build. Pairs ascend by (expert, row), so that a
// receiver finds each of its experts' rows in one run. An empty message is the same as one with no
// rows.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace shoal {

// One of the experts chosen for a row: `row` counts the message's rows.
struct ExpertPair {
  uint32_t row = 0;
  uint16_t expert = 0;  // logical id
  uint16_t slot = 0;    // which of the row's K choices it is

  bool operator==(const ExpertPair&) const = default;
};

// What both ends know before a message: no message may say otherwise.
struct ExpertMessageShape {
  int64_t max_rows = 0;   // of one message
  int64_t row_bytes = 0;  // D elements of the activation dtype
  int experts = 0;        // E
  int slots = 0;          // K
};

// Bytes of a message; the largest of either kind for a shape: every row to one rank with all its
// experts.
size_t DispatchBytes(const ExpertMessageShape& shape, int64_t rows, int64_t pairs);
size_t CombineBytes(const ExpertMessageShape& shape, int64_t pairs);
size_t MaxExpertMessageBytes(const ExpertMessageShape& shape);

// Writes everything but the rows, front to back; the caller writes rows where the result points.
std::byte* WriteDispatch(const ExpertMessageShape& shape, int64_t rows,
                         absl::Span<const ExpertPair> pairs, absl::Span<std::byte> message);
std::byte* WriteCombine(const ExpertMessageShape& shape, int64_t pairs,
                        absl::Span<std::byte> message);

// Views into a received dispatch.
struct DispatchMessage {
  int64_t rows = 0;
  absl::Span<const ExpertPair> pairs;
  const std::byte* data = nullptr;  // rows * row_bytes
};

// Errors: DataLoss saying what is wrong, for any bytes that WriteDispatch would not have written.
absl::StatusOr<DispatchMessage> ParseDispatch(const ExpertMessageShape& shape,
                                              absl::Span<const std::byte> message);
// The rows of a combine that answers `pairs` pairs. Errors: DataLoss.
absl::StatusOr<const std::byte*> ParseCombine(const ExpertMessageShape& shape, int64_t pairs,
                                              absl::Span<const std::byte> message);

}  // namespace shoal
