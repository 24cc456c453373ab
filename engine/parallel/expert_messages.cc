// SPDX-License-Identifier: Apache-2.0
#include "engine/parallel/expert_messages.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"

namespace shoal {
namespace {

constexpr size_t kAlignment = 64;
constexpr uint32_t kDispatchMagic = 0x31505344;  // "DSP1"
constexpr uint32_t kCombineMagic = 0x31424d43;   // "CMB1"

struct DispatchHeader {
  uint32_t magic = kDispatchMagic;
  uint32_t rows = 0;
  uint32_t pairs = 0;
  uint32_t row_bytes = 0;
};

struct CombineHeader {
  uint32_t magic = kCombineMagic;
  uint32_t pairs = 0;
  uint32_t row_bytes = 0;
  uint32_t reserved = 0;
};

static_assert(sizeof(ExpertPair) == 8 && sizeof(DispatchHeader) == 16 &&
              sizeof(CombineHeader) == 16);

size_t AlignUp(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

size_t RowsOffset(int64_t pairs) {
  return AlignUp(sizeof(DispatchHeader) + static_cast<size_t>(pairs) * sizeof(ExpertPair));
}

template <typename... Args>
absl::Status Malformed(const Args&... what) {
  return absl::DataLossError(absl::StrCat("malformed expert message: ", what...));
}

absl::Status CheckPairs(const ExpertMessageShape& shape, int64_t rows,
                        absl::Span<const ExpertPair> pairs) {
  for (size_t i = 0; i < pairs.size(); ++i) {
    const ExpertPair& pair = pairs[i];
    if (pair.row >= rows || pair.expert >= shape.experts || pair.slot >= shape.slots) {
      return Malformed("pair ", i, ": row ", pair.row, " of ", rows, ", expert ", pair.expert,
                       " of ", shape.experts, ", slot ", pair.slot, " of ", shape.slots);
    }
    if (i == 0) continue;
    const ExpertPair& last = pairs[i - 1];
    if (pair.expert < last.expert || (pair.expert == last.expert && pair.row <= last.row)) {
      return Malformed("pair ", i, " does not follow its predecessor");
    }
  }
  return absl::OkStatus();
}

}  // namespace

size_t DispatchBytes(const ExpertMessageShape& shape, int64_t rows, int64_t pairs) {
  if (rows == 0) return 0;
  return RowsOffset(pairs) + static_cast<size_t>(rows * shape.row_bytes);
}

size_t CombineBytes(const ExpertMessageShape& shape, int64_t pairs) {
  if (pairs == 0) return 0;
  return kAlignment + static_cast<size_t>(pairs * shape.row_bytes);
}

size_t MaxExpertMessageBytes(const ExpertMessageShape& shape) {
  const int64_t pairs = shape.max_rows * shape.slots;
  return std::max(DispatchBytes(shape, shape.max_rows, pairs), CombineBytes(shape, pairs));
}

std::byte* WriteDispatch(const ExpertMessageShape& shape, int64_t rows,
                         absl::Span<const ExpertPair> pairs, absl::Span<std::byte> message) {
  SHOAL_CHECK(rows > 0 && DispatchBytes(shape, rows, pairs.size()) <= message.size());
  DispatchHeader header;
  header.rows = static_cast<uint32_t>(rows);
  header.pairs = static_cast<uint32_t>(pairs.size());
  header.row_bytes = static_cast<uint32_t>(shape.row_bytes);
  std::memcpy(message.data(), &header, sizeof(header));
  const size_t pairs_end = sizeof(header) + pairs.size() * sizeof(ExpertPair);
  std::memcpy(message.data() + sizeof(header), pairs.data(), pairs.size() * sizeof(ExpertPair));
  const size_t rows_begin = RowsOffset(pairs.size());
  std::memset(message.data() + pairs_end, 0, rows_begin - pairs_end);
  return message.data() + rows_begin;
}

std::byte* WriteCombine(const ExpertMessageShape& shape, int64_t pairs,
                        absl::Span<std::byte> message) {
  SHOAL_CHECK(pairs > 0 && CombineBytes(shape, pairs) <= message.size());
  CombineHeader header;
  header.pairs = static_cast<uint32_t>(pairs);
  header.row_bytes = static_cast<uint32_t>(shape.row_bytes);
  std::memcpy(message.data(), &header, sizeof(header));
  std::memset(message.data() + sizeof(header), 0, kAlignment - sizeof(header));
  return message.data() + kAlignment;
}

absl::StatusOr<DispatchMessage> ParseDispatch(const ExpertMessageShape& shape,
                                              absl::Span<const std::byte> message) {
  if (message.empty()) return DispatchMessage();
  if (reinterpret_cast<uintptr_t>(message.data()) % kAlignment != 0) {
    return Malformed("not at a 64-byte aligned address");
  }
  DispatchHeader header;
  if (message.size() < sizeof(header)) return Malformed("a dispatch of ", message.size(), " bytes");
  std::memcpy(&header, message.data(), sizeof(header));
  if (header.magic != kDispatchMagic) return Malformed("not a dispatch");
  if (header.row_bytes != shape.row_bytes) {
    return Malformed("want rows of ", shape.row_bytes, " bytes, found ", header.row_bytes);
  }
  if (header.rows == 0 || header.rows > shape.max_rows ||
      header.pairs > static_cast<uint64_t>(header.rows) * shape.slots) {
    return Malformed("want at most ", shape.max_rows, " rows of ", shape.slots, " pairs, found ",
                     header.rows, " rows, ", header.pairs, " pairs");
  }
  const size_t wanted = DispatchBytes(shape, header.rows, header.pairs);
  if (message.size() != wanted) {
    return Malformed("want ", wanted, " bytes, found ", message.size());
  }
  DispatchMessage dispatch;
  dispatch.rows = header.rows;
  dispatch.pairs = absl::MakeConstSpan(
      reinterpret_cast<const ExpertPair*>(message.data() + sizeof(header)), header.pairs);
  dispatch.data = message.data() + RowsOffset(header.pairs);
  if (absl::Status status = CheckPairs(shape, dispatch.rows, dispatch.pairs); !status.ok()) {
    return status;
  }
  return dispatch;
}

absl::StatusOr<const std::byte*> ParseCombine(const ExpertMessageShape& shape, int64_t pairs,
                                              absl::Span<const std::byte> message) {
  if (pairs == 0 && message.empty()) return static_cast<const std::byte*>(nullptr);
  if (reinterpret_cast<uintptr_t>(message.data()) % kAlignment != 0) {
    return Malformed("not at a 64-byte aligned address");
  }
  CombineHeader header;
  if (message.size() < sizeof(header)) return Malformed("a combine of ", message.size(), " bytes");
  std::memcpy(&header, message.data(), sizeof(header));
  if (header.magic != kCombineMagic) return Malformed("not a combine");
  if (header.row_bytes != shape.row_bytes || header.pairs != pairs ||
      message.size() != CombineBytes(shape, pairs)) {
    return Malformed("want ", pairs, " rows of ", shape.row_bytes, " bytes, found ", header.pairs,
                     " of ", header.row_bytes, " in ", message.size(), " bytes");
  }
  return message.data() + kAlignment;
}

}  // namespace shoal
