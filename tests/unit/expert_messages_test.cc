// SPDX-License-Identifier: Apache-2.0
// Shows that what one rank writes another reads, that the largest message is the largest, and that
// no bytes whatever are parsed into something out of bounds: each header field wrong in turn, then
// random damage, then random bytes.
#include "engine/parallel/expert_messages.h"

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shoal {
namespace {

using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

constexpr ExpertMessageShape kShape = {.max_rows = 5, .row_bytes = 24, .experts = 7, .slots = 3};

// 64-byte aligned bytes.
class Message {
 public:
  explicit Message(size_t bytes) : lines_((bytes + 63) / 64 + 1), bytes_(bytes) {}
  absl::Span<std::byte> span() { return {reinterpret_cast<std::byte*>(lines_.data()), bytes_}; }
  void Resize(size_t bytes) {
    ASSERT_LE(bytes, lines_.size() * 64);
    bytes_ = bytes;
  }
  template <typename T>
  void Poke(size_t offset, T value) {
    std::memcpy(span().data() + offset, &value, sizeof(value));
  }

 private:
  struct alignas(64) Line {
    std::byte bytes[64];
  };
  std::vector<Line> lines_;
  size_t bytes_;
};

const std::vector<ExpertPair> kPairs = {{1, 0, 2}, {0, 3, 0}, {1, 3, 1}, {0, 6, 2}};

Message MakeDispatch() {
  Message message(DispatchBytes(kShape, 2, kPairs.size()));
  std::byte* rows = WriteDispatch(kShape, 2, kPairs, message.span());
  std::memset(rows, 0xAB, 2 * kShape.row_bytes);
  return message;
}

TEST(ExpertMessages, DispatchRoundTrip) {
  Message message = MakeDispatch();
  const auto parsed = ParseDispatch(kShape, message.span());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->rows, 2);
  EXPECT_THAT(parsed->pairs, ElementsAreArray(kPairs));
  EXPECT_EQ(parsed->data + 2 * kShape.row_bytes, message.span().data() + message.span().size());
  EXPECT_EQ(parsed->data[0], std::byte{0xAB});
  EXPECT_EQ(reinterpret_cast<uintptr_t>(parsed->data) % 64, 0u);
}

TEST(ExpertMessages, EmptyIsNoRows) {
  const auto parsed = ParseDispatch(kShape, {});
  ASSERT_TRUE(parsed.ok());
  EXPECT_EQ(parsed->rows, 0);
  EXPECT_TRUE(parsed->pairs.empty());
  EXPECT_EQ(DispatchBytes(kShape, 0, 0), 0u);
  EXPECT_EQ(CombineBytes(kShape, 0), 0u);
  EXPECT_TRUE(ParseCombine(kShape, 0, {}).ok());
  EXPECT_FALSE(ParseCombine(kShape, 1, {}).ok());
}

TEST(ExpertMessages, CombineRoundTrip) {
  Message message(CombineBytes(kShape, 4));
  std::byte* rows = WriteCombine(kShape, 4, message.span());
  const auto parsed = ParseCombine(kShape, 4, message.span());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(*parsed, rows);
  EXPECT_EQ(ParseCombine(kShape, 3, message.span()).status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(ParseDispatch(kShape, message.span()).status().code(), absl::StatusCode::kDataLoss);
  Message dispatch = MakeDispatch();
  EXPECT_EQ(ParseCombine(kShape, 4, dispatch.span()).status().code(), absl::StatusCode::kDataLoss);
}

TEST(ExpertMessages, LargestMessageIsEveryRowWithAllItsExperts) {
  for (int64_t rows = 1; rows <= kShape.max_rows; ++rows) {
    EXPECT_LE(DispatchBytes(kShape, rows, rows * kShape.slots), MaxExpertMessageBytes(kShape));
    EXPECT_LE(CombineBytes(kShape, rows * kShape.slots), MaxExpertMessageBytes(kShape));
  }
}

TEST(ExpertMessages, EachLieIsDataLoss) {
  const struct {
    const char* what;
    size_t offset;
    uint32_t value;
    const char* message;
  } lies[] = {
      {"magic", 0, 7, "not a dispatch"},
      {"no rows", 4, 0, "rows"},
      {"too many rows", 4, 6, "want at most 5 rows"},
      {"huge rows", 4, 0xFFFFFFFF, "want at most 5 rows"},
      {"other size", 4, 3, "bytes, found"},
      {"too many pairs", 8, 7, "7 pairs"},
      {"huge pairs", 8, 0xFFFFFFFF, "pairs"},
      {"row bytes", 12, 23, "want rows of 24 bytes, found 23"},
      {"row out of range", 16, 2, "pair 0: row 2 of 2"},
      {"expert out of range", 20, 7, "expert 7 of 7"},
      {"slot out of range", 20, 3u << 16, "slot 3 of 3"},
      {"unordered", 16, 1, nullptr},
  };
  for (const auto& lie : lies) {
    Message message = MakeDispatch();
    if (lie.message == nullptr) {
      message.Poke(16 + 8, uint32_t{1});  // (row 1, expert 3) twice
    } else {
      message.Poke(lie.offset, lie.value);
    }
    const absl::Status status = ParseDispatch(kShape, message.span()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << lie.what << status;
    EXPECT_THAT(std::string(status.message()),
                HasSubstr(lie.message == nullptr ? "does not follow" : lie.message));
  }
  Message message = MakeDispatch();
  EXPECT_FALSE(ParseDispatch(kShape, message.span().subspan(0, message.span().size() - 1)).ok());
  EXPECT_FALSE(ParseDispatch(kShape, message.span().subspan(0, 8)).ok());
  EXPECT_THAT(std::string(ParseDispatch(kShape, message.span().subspan(8)).status().message()),
              HasSubstr("aligned"));
}

TEST(ExpertMessages, RandomBytesNeverLeaveTheMessage) {
  int accepted = 0;
  for (uint64_t seed = 1; seed <= 20000; ++seed) {
    std::mt19937_64 random(seed);
    Message message = MakeDispatch();
    const int hits = static_cast<int>(random() % 6);
    for (int i = 0; i < hits; ++i) {
      const size_t offset = random() % 4 == 0 ? random() % message.span().size() : random() % 48;
      message.Poke(offset, static_cast<uint8_t>(random() % 3 == 0 ? random() : random() % 8));
    }
    if (random() % 4 == 0) message.Resize(random() % message.span().size());
    const auto parsed = ParseDispatch(kShape, message.span());
    if (!parsed.ok()) {
      ASSERT_EQ(parsed.status().code(), absl::StatusCode::kDataLoss);
      continue;
    }
    ++accepted;
    if (parsed->rows == 0) continue;
    const std::byte* end = message.span().data() + message.span().size();
    ASSERT_LE(parsed->rows, kShape.max_rows);
    ASSERT_EQ(parsed->data + parsed->rows * kShape.row_bytes, end);
    for (const ExpertPair& pair : parsed->pairs) {
      ASSERT_LT(pair.row, parsed->rows);
      ASSERT_LT(pair.expert, kShape.experts);
      ASSERT_LT(pair.slot, kShape.slots);
    }
  }
  std::printf("seeds 1..20000: %d accepted\n", accepted);
  EXPECT_GT(accepted, 1000);  // untouched or harmlessly touched ones
  EXPECT_LT(accepted, 15000);
}

}  // namespace
}  // namespace shoal
