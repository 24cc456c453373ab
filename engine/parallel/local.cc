// SPDX-License-Identifier: Apache-2.0
#include "engine/parallel/local.h"

#include "engine/base/check.h"

namespace shoal {

LocalExchange::LocalExchange(size_t max_message_bytes) : max_message_bytes_(max_message_bytes) {
  for (Buffer& buffer : buffers_) buffer.lines.resize((max_message_bytes + 63) / 64);
}

absl::Span<std::byte> LocalExchange::SendBuffer(const ExchangeTag& tag, RankId, absl::Time) {
  return {buffers_[static_cast<int>(tag.phase)].data(), max_message_bytes_};
}

absl::Status LocalExchange::Post(const ExchangeTag& tag, absl::Span<const size_t> bytes) {
  SHOAL_CHECK(bytes.size() == 1 && bytes[0] <= max_message_bytes_);
  buffers_[static_cast<int>(tag.phase)].size = bytes[0];
  return absl::OkStatus();
}

absl::Status LocalExchange::Wait(const ExchangeTag& tag, absl::Time,
                                 absl::Span<absl::Span<const std::byte>> received) {
  Buffer& buffer = buffers_[static_cast<int>(tag.phase)];
  received[0] = {buffer.data(), buffer.size};
  return absl::OkStatus();
}

}  // namespace shoal
