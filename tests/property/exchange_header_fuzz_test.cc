// SPDX-License-Identifier: Apache-2.0
// Shows that no bytes from a peer crash the parsers of headers and hellos, and that a header is
// accepted only when it is, byte for byte, one that WriteMessageHeader would have written: random
// bytes, and good ones with random damage. The seed is printed; SHOAL_SEED repeats a run.
#include <cstdlib>
#include <cstring>
#include <random>

#include "comm/hello.h"
#include "comm/message_header.h"
#include "gtest/gtest.h"

namespace shoal {
namespace {

constexpr uint64_t kMax = 1 << 20;

std::mt19937_64 Random() {
  const char* given = std::getenv("SHOAL_SEED");
  const uint64_t seed =
      given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device()();
  std::cout << "SHOAL_SEED=" << seed << std::endl;
  return std::mt19937_64(seed);
}

void ParseAndCompare(absl::Span<const std::byte> bytes) {
  const absl::StatusOr<MessageHeader> header = ParseMessageHeader(bytes, kMax);
  if (!header.ok()) {
    ASSERT_TRUE(absl::IsDataLoss(header.status())) << header.status();
    return;
  }
  ASSERT_LE(header->length, kMax);
  std::array<std::byte, kMessageHeaderBytes> again;
  WriteMessageHeader(*header, absl::MakeSpan(again));
  ASSERT_EQ(std::memcmp(again.data(), bytes.data(), again.size()), 0);
}

TEST(ExchangeHeaderFuzz, OnlyWrittenHeadersAreAccepted) {
  std::mt19937_64 random = Random();
  for (int i = 0; i < 200000; ++i) {
    std::array<std::byte, kMessageHeaderBytes + 8> bytes;
    if (i % 4 == 0) {
      for (std::byte& byte : bytes) byte = std::byte(random());
    } else {
      MessageHeader header;
      header.kind = static_cast<MessageKind>(random() % 3);
      header.tag.epoch = Epoch(static_cast<int64_t>(random() >> random() % 64));
      header.tag.step = StepId(static_cast<int64_t>(random() >> random() % 64));
      header.tag.layer = static_cast<int32_t>(random() >> random() % 64);
      header.tag.phase = static_cast<ExchangePhase>(random() % 3);
      header.source = RankId(static_cast<int32_t>(random() >> random() % 64));
      header.length = random() >> random() % 64;
      WriteMessageHeader(header, absl::MakeSpan(bytes));
      for (uint64_t damage = random() % 3; damage > 0; --damage) {
        bytes[random() % kMessageHeaderBytes] = std::byte(random());
      }
    }
    const size_t length = i % 8 == 7 ? random() % (bytes.size() + 1) : bytes.size();
    ParseAndCompare(absl::MakeConstSpan(bytes).subspan(0, length));
    if (HasFatalFailure()) return;
  }
}

TEST(ExchangeHeaderFuzz, HellosNeverCrash) {
  std::mt19937_64 random = Random();
  const Hello mine = {.cluster = "fuzz",
                      .epoch = Epoch(3),
                      .rank = RankId(0),
                      .world = 2,
                      .max_message_bytes = 10,
                      .endpoint = "here"};
  const std::vector<std::string> endpoints = {"here", "there"};
  Hello theirs = mine;
  theirs.rank = RankId(1);
  theirs.endpoint = "there";
  const std::string hello = EncodeHello(theirs);
  const std::string welcome = EncodeHelloReply({.verdict = absl::OkStatus(), .hello = theirs});
  ASSERT_EQ(JudgeHello(mine, ParseHello(hello).value(), endpoints), absl::OkStatus());
  ASSERT_EQ(ParseHelloReply(welcome).value().hello.endpoint, "there");
  int accepted = 0;
  for (int i = 0; i < 100000; ++i) {
    std::string bytes = i % 2 == 0 ? hello : welcome;
    for (uint64_t damage = 1 + random() % 4; damage > 0; --damage) {
      switch (random() % 3) {
        case 0:
          if (!bytes.empty()) bytes[random() % bytes.size()] = static_cast<char>(random());
          break;
        case 1:
          bytes.resize(random() % (bytes.size() + 1));
          break;
        default:
          bytes.insert(random() % (bytes.size() + 1), 1, static_cast<char>(random()));
      }
    }
    if (const auto parsed = ParseHello(bytes); parsed.ok()) {
      accepted += JudgeHello(mine, *parsed, endpoints).ok();
    }
    if (const auto parsed = ParseHelloReply(bytes); parsed.ok() && parsed->verdict.ok()) {
      accepted += JudgeHello(mine, parsed->hello, endpoints).ok();
    }
  }
  EXPECT_LT(accepted, 20000);  // a few forms of damage change nothing, such as an unknown field
  EXPECT_FALSE(ParseHello(std::string(kMaxHelloBytes + 1, 'x')).ok());
}

}  // namespace
}  // namespace shoal
