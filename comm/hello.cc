// SPDX-License-Identifier: Apache-2.0
#include "comm/hello.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "proto/exchange.pb.h"

namespace shoal {
namespace {

constexpr uint32_t kProtocol = 1;

void ToProto(const Hello& hello, exchange::Hello& out) {
  out.set_protocol(kProtocol);
  out.set_cluster(hello.cluster);
  out.set_epoch(hello.epoch.value());
  out.set_rank(hello.rank.value());
  out.set_world(hello.world);
  out.set_max_message_bytes(hello.max_message_bytes);
  out.set_endpoint(hello.endpoint);
}

absl::StatusOr<Hello> FromProto(const exchange::Hello& hello) {
  if (hello.protocol() != kProtocol) {
    return absl::DataLossError(
        absl::StrCat("hello: want exchange protocol ", kProtocol, ", found ", hello.protocol()));
  }
  return Hello{.cluster = hello.cluster(),
               .epoch = Epoch(hello.epoch()),
               .rank = RankId(hello.rank()),
               .world = hello.world(),
               .max_message_bytes = hello.max_message_bytes(),
               .endpoint = hello.endpoint()};
}

template <typename Proto>
bool Parse(absl::string_view bytes, Proto& proto) {
  return bytes.size() <= kMaxHelloBytes &&
         proto.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()));
}

// Whether `endpoint` is what the roster lists: the same, or one that goes on where the roster has a
// '*'. An empty entry is an absent rank, and nobody.
bool Stands(absl::string_view endpoint, absl::string_view listed) {
  if (absl::ConsumeSuffix(&listed, "*")) return absl::StartsWith(endpoint, listed);
  return !listed.empty() && endpoint == listed;
}

template <typename T>
absl::Status Mismatch(absl::string_view what, const T& mine, const T& theirs) {
  return absl::FailedPreconditionError(absl::StrCat(what, ": want ", mine, ", found ", theirs));
}

}  // namespace

std::string EncodeHello(const Hello& hello) {
  exchange::Hello proto;
  ToProto(hello, proto);
  return proto.SerializeAsString();
}

std::string EncodeHelloReply(const HelloReply& reply) {
  exchange::HelloReply proto;
  proto.set_code(static_cast<int32_t>(reply.verdict.code()));
  proto.set_message(std::string(reply.verdict.message().substr(0, kMaxHelloBytes / 2)));
  if (reply.verdict.ok()) ToProto(reply.hello, *proto.mutable_hello());
  return proto.SerializeAsString();
}

absl::StatusOr<Hello> ParseHello(absl::string_view bytes) {
  exchange::Hello proto;
  if (!Parse(bytes, proto)) return absl::DataLossError("hello: not a message of this protocol");
  return FromProto(proto);
}

absl::StatusOr<HelloReply> ParseHelloReply(absl::string_view bytes) {
  exchange::HelloReply proto;
  if (!Parse(bytes, proto))
    return absl::DataLossError("hello reply: not a message of this protocol");
  HelloReply reply;
  if (proto.code() != 0) {
    const bool known =
        proto.code() > 0 && proto.code() <= static_cast<int>(absl::StatusCode::kUnauthenticated);
    reply.verdict = absl::Status(
        known ? static_cast<absl::StatusCode>(proto.code()) : absl::StatusCode::kUnknown,
        proto.message());
    return reply;
  }
  absl::StatusOr<Hello> hello = FromProto(proto.hello());
  if (!hello.ok()) return hello.status();
  reply.hello = *std::move(hello);
  return reply;
}

absl::Status JudgeHello(const Hello& mine, const Hello& theirs,
                        absl::Span<const std::string> endpoints) {
  if (theirs.cluster != mine.cluster) return Mismatch("cluster", mine.cluster, theirs.cluster);
  if (theirs.world != mine.world) return Mismatch("world size", mine.world, theirs.world);
  if (theirs.max_message_bytes != mine.max_message_bytes) {
    return Mismatch("max_message_bytes", mine.max_message_bytes, theirs.max_message_bytes);
  }
  if (theirs.rank.value() < 0 || theirs.rank.value() >= mine.world || theirs.rank == mine.rank) {
    return absl::FailedPreconditionError(absl::StrCat("rank ", theirs.rank.value(),
                                                      " is no peer of rank ", mine.rank.value(),
                                                      " in a world of ", mine.world));
  }
  if (theirs.epoch != mine.epoch) {
    return absl::AbortedError(absl::StrCat("epoch: rank ", mine.rank.value(), " connects epoch ",
                                           mine.epoch.value(), ", rank ", theirs.rank.value(),
                                           " epoch ", theirs.epoch.value()));
  }
  const std::string& listed = endpoints[theirs.rank.value()];
  if (Stands(theirs.endpoint, listed)) return absl::OkStatus();
  return Mismatch(absl::StrCat("endpoint of rank ", theirs.rank.value()),
                  listed.empty() ? "none (it is absent)" : listed, theirs.endpoint);
}

}  // namespace shoal
