// SPDX-License-Identifier: Apache-2.0
// Shows that a message's header arrives as it was written, and that anything else than a header
// written by a peer for this link and this exchange is refused by name: every field is bent in
// turn.
#include <array>
#include <cstring>
#include <limits>

#include "comm/message_header.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;
using Bytes = std::array<std::byte, kMessageHeaderBytes>;

constexpr uint64_t kMax = 1000;

MessageHeader Sample() {
  MessageHeader header;
  header.tag = {.epoch = Epoch(7),
                .step = StepId(int64_t{1} << 40),
                .layer = 60,
                .phase = ExchangePhase::kCombine};
  header.source = RankId(3);
  header.length = 1000;
  return header;
}

Bytes Write(const MessageHeader& header) {
  Bytes bytes;
  WriteMessageHeader(header, absl::MakeSpan(bytes));
  return bytes;
}

TEST(MessageHeader, ArrivesAsWritten) {
  MessageHeader header = Sample();
  EXPECT_EQ(ParseMessageHeader(Write(header), kMax).value(), header);
  header.kind = MessageKind::kBye;
  header.length = 0;
  header.tag.phase = ExchangePhase::kDispatch;
  EXPECT_EQ(ParseMessageHeader(Write(header), kMax).value(), header);
  header = MessageHeader();
  EXPECT_EQ(ParseMessageHeader(Write(header), 0).value(), header);
}

TEST(MessageHeader, AnyFlippedBitIsRefused) {
  const Bytes good = Write(Sample());
  for (size_t bit = 0; bit < 8 * good.size(); ++bit) {
    Bytes bad = good;
    bad[bit / 8] ^= std::byte(1 << bit % 8);
    EXPECT_TRUE(absl::IsDataLoss(ParseMessageHeader(bad, kMax).status())) << "bit " << bit;
  }
}

TEST(MessageHeader, AShortOneIsRefused) {
  const Bytes good = Write(Sample());
  for (size_t length = 0; length < good.size(); ++length) {
    const auto header = ParseMessageHeader(absl::MakeConstSpan(good).subspan(0, length), kMax);
    EXPECT_TRUE(absl::IsDataLoss(header.status())) << length;
    EXPECT_THAT(header.status().message(), HasSubstr("want 64 bytes"));
  }
}

// Headers with a right checksum and a wrong field: what a faulty or hostile peer could write.
TEST(MessageHeader, FieldsOutOfRangeAreNamed) {
  const auto why = [](const MessageHeader& header) {
    return std::string(ParseMessageHeader(Write(header), kMax).status().message());
  };
  MessageHeader header = Sample();
  header.length = kMax + 1;
  EXPECT_THAT(why(header), HasSubstr("length 1001 exceeds the largest message, 1000"));
  header.length = std::numeric_limits<uint64_t>::max();
  EXPECT_THAT(why(header), HasSubstr("length 18446744073709551615"));
  header = Sample();
  header.source = RankId(-1);
  EXPECT_THAT(why(header), HasSubstr("source -1"));
  header = Sample();
  header.tag.layer = -5;
  EXPECT_THAT(why(header), HasSubstr("layer -5"));
  header = Sample();
  header.tag.epoch = Epoch(-2);
  EXPECT_THAT(why(header), HasSubstr("epoch -2"));
  header = Sample();
  header.tag.step = StepId(-9);
  EXPECT_THAT(why(header), HasSubstr("step -9"));
  header = Sample();
  header.tag.phase = static_cast<ExchangePhase>(2);
  EXPECT_THAT(why(header), HasSubstr("phase 2"));
  header = Sample();
  header.kind = static_cast<MessageKind>(9);
  EXPECT_THAT(why(header), HasSubstr("kind 9"));
}

TEST(MessageHeader, IsHeldAgainstTheLinkAndTheExchange) {
  const MessageHeader header = Sample();
  EXPECT_EQ(CheckMessage(header, RankId(3), header.tag), absl::OkStatus());
  const absl::Status source = CheckMessage(header, RankId(2), header.tag);
  EXPECT_TRUE(absl::IsDataLoss(source));
  EXPECT_THAT(source.message(), HasSubstr("on the link of rank 2 it names source 3"));

  ExchangeTag want = header.tag;
  want.epoch = Epoch(8);
  EXPECT_TRUE(absl::IsDataLoss(CheckMessage(header, RankId(3), want)));
  want = header.tag;
  want.layer = 59;
  const absl::Status step = CheckMessage(header, RankId(3), want);
  EXPECT_TRUE(absl::IsInternal(step));
  EXPECT_THAT(step.message(), HasSubstr("rank 3 sent " + header.tag.ToString() + " instead"));

  MessageHeader bye = header;
  bye.kind = MessageKind::kBye;
  EXPECT_TRUE(absl::IsDataLoss(CheckMessage(bye, RankId(3), header.tag)));
}

}  // namespace
}  // namespace shoal
