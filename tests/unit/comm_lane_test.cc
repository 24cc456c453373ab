// SPDX-License-Identifier: Apache-2.0
// Shows what a lane promises to its two ends, tried by playing both: order, back-pressure, fences
// between epochs in every order of installing them, and a reader that no content of the shared
// memory can mislead.
#include <cstring>
#include <limits>

#include "comm/lane.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;

constexpr ExchangePhase kDispatch = ExchangePhase::kDispatch;
constexpr ExchangePhase kCombine = ExchangePhase::kCombine;
constexpr RankId kSource{4};
constexpr size_t kMax = 100;

ExchangeTag Tag(int64_t epoch, int64_t step, ExchangePhase phase = kDispatch) {
  return {.epoch = Epoch(epoch), .step = StepId(step), .layer = 0, .phase = phase};
}

class LaneTest : public ::testing::Test {
 protected:
  void Install(int64_t epoch) {
    writer_.InstallEpoch(Epoch(epoch));
    reader_.InstallEpoch(Epoch(epoch));
  }
  void Send(const ExchangeTag& tag, uint8_t content, size_t length = kMax) {
    ASSERT_TRUE(writer_.CanWrite(tag.phase));
    std::memset(writer_.Rows(tag.phase).data(), content, length);
    MessageHeader header;
    header.tag = tag;
    header.source = kSource;
    header.length = length;
    writer_.Publish(header);
  }
  // The content of message `count`; its error as text.
  std::string Read(uint64_t count, const ExchangeTag& want) {
    const auto rows = reader_.Read(count, kSource, want);
    if (!rows.ok()) return rows.status().ToString();
    return std::string(reinterpret_cast<const char*>(rows->data()), rows->size());
  }

  Lane lane_ = Lane::Allocate(kMax).value();
  LaneWriter writer_{lane_};
  LaneReader reader_{lane_};
};

TEST_F(LaneTest, KeepsOrderAndHoldsTwoMessagesAPhase) {
  Install(1);
  EXPECT_FALSE(reader_.Has(kDispatch, 0));
  Send(Tag(1, 0), 'a');
  Send(Tag(1, 1), 'b', 7);
  EXPECT_FALSE(writer_.CanWrite(kDispatch));
  EXPECT_EQ(writer_.outstanding_bytes(kDispatch), kMax + 7);
  Send(Tag(1, 0, kCombine), 'x', 0);  // the other phase has slots of its own
  EXPECT_TRUE(reader_.Has(kDispatch, 1));
  EXPECT_FALSE(reader_.Has(kDispatch, 2));
  EXPECT_EQ(Read(0, Tag(1, 0)), std::string(kMax, 'a'));
  EXPECT_EQ(Read(1, Tag(1, 1)), std::string(7, 'b'));
  EXPECT_EQ(Read(0, Tag(1, 0, kCombine)), "");
  reader_.Release(kDispatch, 1);
  EXPECT_EQ(writer_.outstanding_bytes(kDispatch), 7u);
  Send(Tag(1, 2), 'c');
  EXPECT_EQ(Read(1, Tag(1, 1)), std::string(7, 'b'));  // untouched
  EXPECT_EQ(Read(2, Tag(1, 2)), std::string(kMax, 'c'));
}

TEST_F(LaneTest, AWriterAheadWaitsForItsReader) {
  Install(1);
  Send(Tag(1, 0), 'a');
  writer_.InstallEpoch(Epoch(2));
  EXPECT_FALSE(writer_.CanWrite(kDispatch));
  EXPECT_FALSE(reader_.Has(kDispatch, 0));  // what was under way is forgotten
  EXPECT_EQ(reader_.writer_epoch(), Epoch(2));
  reader_.InstallEpoch(Epoch(2));
  Send(Tag(2, 0), 'b');
  EXPECT_EQ(Read(0, Tag(2, 0)), std::string(kMax, 'b'));
}

TEST_F(LaneTest, AWriterBehindCannotDisturbItsReader) {
  Install(1);
  Send(Tag(1, 0), 'a');
  const absl::Span<std::byte> half_written = writer_.Rows(kDispatch);
  reader_.InstallEpoch(Epoch(2));
  EXPECT_FALSE(reader_.Has(kDispatch, 0));
  std::memset(half_written.data(), 'z', kMax);
  MessageHeader late;
  late.tag = Tag(1, 1);
  late.source = kSource;
  late.length = kMax;
  writer_.Publish(late);  // it did not know
  EXPECT_FALSE(reader_.Has(kDispatch, 0));
  EXPECT_FALSE(writer_.CanWrite(kDispatch));
  EXPECT_EQ(writer_.reader_epoch(), Epoch(2));
  writer_.InstallEpoch(Epoch(2));
  EXPECT_FALSE(reader_.Has(kDispatch, 0));
  Send(Tag(2, 0), 'b');
  EXPECT_EQ(Read(0, Tag(2, 0)), std::string(kMax, 'b'));
}

TEST_F(LaneTest, WhatAClosedWriterHadSentStaysReadable) {
  Install(3);
  Send(Tag(3, 0), 'a');
  writer_.Close();
  EXPECT_TRUE(reader_.writer_closed());
  EXPECT_TRUE(reader_.Has(kDispatch, 0));
  EXPECT_EQ(Read(0, Tag(3, 0)), std::string(kMax, 'a'));
  reader_.Close();
  EXPECT_TRUE(writer_.reader_closed());
  EXPECT_FALSE(writer_.CanWrite(kDispatch));
}

// The writer is another process: whatever it leaves in the slot, the reader gives an error or at
// most max_message_bytes of the slot.
TEST_F(LaneTest, NothingInASlotMisleadsTheReader) {
  Install(1);
  Send(Tag(1, 0), 'a');
  const absl::Span<std::byte> slot = lane_.Slot(kDispatch, 0);
  EXPECT_THAT(Read(0, Tag(1, 1)), HasSubstr("rank 4 sent epoch 1 step 0 layer 0 dispatch"));
  EXPECT_THAT(reader_.Read(0, RankId(5), Tag(1, 0)).status().message(),
              HasSubstr("names source 4"));

  MessageHeader header;
  header.tag = Tag(1, 0);
  header.source = kSource;
  header.length = kMax + 1;
  WriteMessageHeader(header, slot);
  EXPECT_THAT(Read(0, Tag(1, 0)), HasSubstr("DATA_LOSS"));
  header.length = std::numeric_limits<uint64_t>::max();
  WriteMessageHeader(header, slot);
  EXPECT_THAT(Read(0, Tag(1, 0)), HasSubstr("exceeds the largest message"));
  std::memset(slot.data(), 0, slot.size());
  EXPECT_THAT(Read(0, Tag(1, 0)), HasSubstr("magic"));
  // A wild slot number stays inside the lane.
  lane_.control().writer.first_slot[0].store(std::numeric_limits<uint64_t>::max());
  EXPECT_THAT(Read(0, Tag(1, 0)), HasSubstr("DATA_LOSS"));
}

TEST_F(LaneTest, AWildReleaseCountOnlyHoldsTheWriterBack) {
  Install(1);
  Send(Tag(1, 0), 'a');
  lane_.control().reader.count[0].store(1000);
  EXPECT_FALSE(writer_.CanWrite(kDispatch));
  EXPECT_LE(writer_.outstanding_bytes(kDispatch), kMax);
}

TEST(Lane, AbsurdSizesAreRefused) {
  EXPECT_TRUE(absl::IsInvalidArgument(Lane::Allocate(std::numeric_limits<size_t>::max()).status()));
  EXPECT_FALSE(Lane::Allocate(size_t{1} << 56).ok());
  EXPECT_TRUE(Lane::Allocate(0).ok());
}

}  // namespace
}  // namespace shoal
