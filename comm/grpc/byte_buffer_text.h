// SPDX-License-Identifier: Apache-2.0
// Small control messages (hello, reply) as ByteBuffers.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "grpcpp/support/byte_buffer.h"

namespace shoal {

grpc::ByteBuffer ToByteBuffer(absl::string_view text);
// At most `limit` bytes of it.
std::string ToText(const grpc::ByteBuffer& buffer, size_t limit);

}  // namespace shoal
