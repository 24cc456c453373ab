// SPDX-License-Identifier: Apache-2.0
#include "comm/grpc/byte_buffer_text.h"

#include <algorithm>
#include <vector>

#include "grpcpp/support/slice.h"

namespace shoal {

grpc::ByteBuffer ToByteBuffer(absl::string_view text) {
  const grpc::Slice slice(text.data(), text.size());
  return grpc::ByteBuffer(&slice, 1);
}

std::string ToText(const grpc::ByteBuffer& buffer, size_t limit) {
  std::vector<grpc::Slice> slices;
  std::string text;
  if (!buffer.Dump(&slices).ok()) return text;
  for (const grpc::Slice& slice : slices) {
    const size_t length = std::min(slice.size(), limit - text.size());
    text.append(reinterpret_cast<const char*>(slice.begin()), length);
  }
  return text;
}

}  // namespace shoal
