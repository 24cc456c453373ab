// SPDX-License-Identifier: Apache-2.0
// The introduction two ranks exchange before their first row, and the judgement on it: same
// protocol, same unit, same epoch, same world, same message size, and the speaker is who the roster
// says.
#pragma once

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "engine/base/ids.h"

namespace shoal {

inline constexpr size_t kMaxHelloBytes = 8192;

struct Hello {
  std::string cluster;
  Epoch epoch;
  RankId rank;
  int world = 0;
  size_t max_message_bytes = 0;
  std::string endpoint;
};

// A hello, or the refusal of one.
struct HelloReply {
  absl::Status verdict;
  Hello hello;  // when the verdict is OK
};

std::string EncodeHello(const Hello& hello);
std::string EncodeHelloReply(const HelloReply& reply);
// Errors: DataLoss when the bytes are no hello of this protocol version.
absl::StatusOr<Hello> ParseHello(absl::string_view bytes);
absl::StatusOr<HelloReply> ParseHelloReply(absl::string_view bytes);

// Holds a peer's hello against our own. `endpoints` is the roster of `mine.epoch`, in which an
// absent rank has none, so that nobody can speak for it. Errors, naming
// what was wanted and what was found: Aborted for another epoch; FailedPrecondition for another
// cluster, world or message size, for a rank outside the world or our own, and for an endpoint that
// is not the roster's (a worker that was replaced, or left out). A roster entry that ends in '*'
// stands for every endpoint that begins so.
absl::Status JudgeHello(const Hello& mine, const Hello& theirs,
                        absl::Span<const std::string> endpoints);

}  // namespace shoal
