// SPDX-License-Identifier: Apache-2.0
// The 64 bytes in front of every message, on every transport: which exchange it belongs to, who
// sent it and how many bytes follow. Nothing read from a peer is used before its header was parsed
// and compared here.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/base/ids.h"
#include "engine/parallel/exchange.h"

namespace shoal {

inline constexpr size_t kMessageHeaderBytes = 64;

enum class MessageKind : uint8_t {
  kRows = 0,  // one exchange's bytes
  kBye = 1,   // the sender leaves in good order; length 0
};

struct MessageHeader {
  MessageKind kind = MessageKind::kRows;
  ExchangeTag tag;
  RankId source;
  uint64_t length = 0;  // bytes that follow the header

  bool operator==(const MessageHeader&) const = default;
};

// Writes `header` in wire form (little endian, checksummed) into the first 64 bytes of `out`.
void WriteMessageHeader(const MessageHeader& header, absl::Span<std::byte> out);

// Reads a header written by WriteMessageHeader. `max_length` bounds `length`.
// Errors: DataLoss naming the field that is wrong (size, magic, version, checksum, kind, phase,
// layer, source, epoch, step, length). Allocates only for an error.
absl::StatusOr<MessageHeader> ParseMessageHeader(absl::Span<const std::byte> bytes,
                                                 uint64_t max_length);

// Holds a parsed header against what this end of the link knows. Errors: DataLoss when it names
// another source or is not of `epoch`; Internal when it belongs to another exchange than `want`:
// the ranks have lost step.
absl::Status CheckMessage(const MessageHeader& header, RankId source, const ExchangeTag& want);

}  // namespace shoal
