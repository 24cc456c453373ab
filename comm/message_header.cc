// SPDX-License-Identifier: Apache-2.0
#include "comm/message_header.h"

#include <bit>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/base/check.h"

namespace shoal {
namespace {

static_assert(std::endian::native == std::endian::little, "the wire form is little endian");

constexpr uint32_t kMagic = 0x4c414853;  // "SHAL"
constexpr uint16_t kVersion = 1;

// The wire form. Reserved bytes are zero and covered by the checksum.
struct WireHeader {
  uint32_t magic;
  uint16_t version;
  uint8_t kind;
  uint8_t phase;
  int32_t source;
  int32_t layer;
  int64_t epoch;
  int64_t step;
  uint64_t length;
  uint8_t reserved[20];
  uint32_t checksum;
};
static_assert(sizeof(WireHeader) == kMessageHeaderBytes);
static_assert(offsetof(WireHeader, checksum) == 60);

// FNV-1a over 32-bit words with a final fold: each step is a bijection of the state, so one changed
// word always changes the 64-bit state. It guards against accidents and wild writes, not against an
// enemy: mutual TLS does that.
uint32_t Checksum(const WireHeader& wire) {
  uint32_t words[15];
  std::memcpy(words, &wire, sizeof(words));
  uint64_t state = 0xcbf29ce484222325u;
  for (uint32_t word : words) state = (state ^ word) * 0x100000001b3u;
  return static_cast<uint32_t>(state ^ (state >> 32));
}

absl::Status Bad(absl::string_view what) {
  return absl::DataLossError(absl::StrCat("message header: ", what));
}

}  // namespace

void WriteMessageHeader(const MessageHeader& header, absl::Span<std::byte> out) {
  SHOAL_CHECK(out.size() >= kMessageHeaderBytes);
  WireHeader wire = {};
  wire.magic = kMagic;
  wire.version = kVersion;
  wire.kind = static_cast<uint8_t>(header.kind);
  wire.phase = static_cast<uint8_t>(header.tag.phase);
  wire.source = header.source.value();
  wire.layer = header.tag.layer;
  wire.epoch = header.tag.epoch.value();
  wire.step = header.tag.step.value();
  wire.length = header.length;
  wire.checksum = Checksum(wire);
  std::memcpy(out.data(), &wire, sizeof(wire));
}

absl::StatusOr<MessageHeader> ParseMessageHeader(absl::Span<const std::byte> bytes,
                                                 uint64_t max_length) {
  if (bytes.size() < kMessageHeaderBytes) {
    return Bad(absl::StrCat("want ", kMessageHeaderBytes, " bytes, found ", bytes.size()));
  }
  WireHeader wire;
  std::memcpy(&wire, bytes.data(), sizeof(wire));
  if (wire.magic != kMagic) {
    return Bad(absl::StrFormat("want magic %08x, found %08x", kMagic, wire.magic));
  }
  if (wire.version != kVersion)
    return Bad(absl::StrCat("want version ", kVersion, ", found ", wire.version));
  if (const uint32_t sum = Checksum(wire); wire.checksum != sum) {
    return Bad(absl::StrFormat("its checksum is %08x, its bytes give %08x", wire.checksum, sum));
  }
  if (wire.kind > static_cast<uint8_t>(MessageKind::kBye))
    return Bad(absl::StrCat("unknown kind ", wire.kind));
  if (wire.phase > static_cast<uint8_t>(ExchangePhase::kCombine)) {
    return Bad(absl::StrCat("unknown phase ", wire.phase));
  }
  if (wire.source < 0) return Bad(absl::StrCat("source ", wire.source));
  if (wire.layer < 0) return Bad(absl::StrCat("layer ", wire.layer));
  if (wire.epoch < 0 || wire.step < 0)
    return Bad(absl::StrCat("epoch ", wire.epoch, " step ", wire.step));
  if (wire.length > max_length) {
    return Bad(absl::StrCat("length ", wire.length, " exceeds the largest message, ", max_length));
  }
  return MessageHeader{.kind = static_cast<MessageKind>(wire.kind),
                       .tag = {.epoch = Epoch(wire.epoch),
                               .step = StepId(wire.step),
                               .layer = wire.layer,
                               .phase = static_cast<ExchangePhase>(wire.phase)},
                       .source = RankId(wire.source),
                       .length = wire.length};
}

absl::Status CheckMessage(const MessageHeader& header, RankId source, const ExchangeTag& want) {
  if (header.kind != MessageKind::kRows) return Bad("kind is not rows");
  if (header.source != source) {
    return Bad(absl::StrCat("on the link of rank ", source.value(), " it names source ",
                            header.source.value()));
  }
  if (header.tag == want) return absl::OkStatus();
  if (header.tag.epoch != want.epoch) return Bad(absl::StrCat("it is of ", header.tag.ToString()));
  return absl::InternalError(
      absl::StrCat("rank ", source.value(), " sent ", header.tag.ToString(), " instead"));
}

}  // namespace shoal
