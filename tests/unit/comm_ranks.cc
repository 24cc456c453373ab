// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/comm_ranks.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"

namespace shoal::comm_test {
namespace {

// SplitMix64: a hash good enough to make every message different.
uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

uint64_t Key(uint64_t seed, const ExchangeTag& tag, int source, int destination) {
  uint64_t key = Mix(seed);
  for (uint64_t part :
       {static_cast<uint64_t>(tag.epoch.value()), static_cast<uint64_t>(tag.step.value()),
        static_cast<uint64_t>(tag.layer), static_cast<uint64_t>(tag.phase),
        static_cast<uint64_t>(source), static_cast<uint64_t>(destination)}) {
    key = Mix(key ^ part);
  }
  return key;
}

}  // namespace

Exchange* Rank::Connect(int64_t epoch, absl::Duration patience) {
  absl::StatusOr<Exchange*> exchange =
      fabric->Connect(Epoch(epoch), RankId(rank), endpoints, absl::Now() + patience);
  EXPECT_TRUE(exchange.ok()) << "rank " << rank << ": " << exchange.status();
  return exchange.ok() ? *exchange : nullptr;
}

FabricOptions Options(const std::string& transport, size_t max_message_bytes) {
  FabricOptions options;
  options.transport = transport;
  options.cluster = "contract-test";
  options.max_message_bytes = max_message_bytes;
  return options;
}

void RunConnected(const std::string& transport, int world, size_t max_message_bytes,
                  const std::function<void(Rank&, Exchange&)>& body) {
  RunRanks(
      world, [&](int) { return Options(transport, max_message_bytes); },
      [&](Rank& me) {
        Exchange* exchange = me.Connect(1);
        if (exchange == nullptr) return;
        body(me, *exchange);
        me.meet();  // so that nobody leaves while another still waits for its last message
      });
}

size_t MessageSize(uint64_t seed, const ExchangeTag& tag, int source, int destination, size_t max) {
  const uint64_t key = Mix(Key(seed, tag, source, destination));
  switch (key % 8) {
    case 0:
      return 0;
    case 1:
      return max;
    case 2:
    case 3:
    case 4:
      return (key >> 8) % std::min<size_t>(max + 1, 300);
    default:
      return (key >> 8) % (max + 1);
  }
}

void FillMessage(uint64_t seed, const ExchangeTag& tag, int source, int destination,
                 absl::Span<std::byte> bytes) {
  uint64_t state = Key(seed, tag, source, destination);
  for (size_t i = 0; i < bytes.size(); i += sizeof(state)) {
    state += 0x9e3779b97f4a7c15u;
    std::memcpy(&bytes[i], &state, std::min(sizeof(state), bytes.size() - i));
  }
}

int64_t FirstWrongByte(uint64_t seed, const ExchangeTag& tag, int source, int destination,
                       absl::Span<const std::byte> bytes) {
  std::vector<std::byte> want(bytes.size());
  FillMessage(seed, tag, source, destination, absl::MakeSpan(want));
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (want[i] != bytes[i]) return static_cast<int64_t>(i);
  }
  return -1;
}

ExchangeTag Tag(int64_t epoch, int64_t step, int layer, ExchangePhase phase) {
  return {.epoch = Epoch(epoch), .step = StepId(step), .layer = layer, .phase = phase};
}

absl::Status SendAll(Exchange& exchange, const ExchangeTag& tag, uint64_t seed,
                     absl::Time deadline) {
  const int self = exchange.rank().value();
  std::vector<size_t> bytes(exchange.world_size());
  for (int peer = 0; peer < exchange.world_size(); ++peer) {
    absl::Span<std::byte> buffer = exchange.SendBuffer(tag, RankId(peer), deadline);
    if (!exchange.Present(RankId(peer))) {
      EXPECT_TRUE(buffer.empty());
      bytes[peer] = exchange.max_message_bytes();  // ignored
      continue;
    }
    if (buffer.empty()) break;  // Post says why
    EXPECT_EQ(buffer.size(), exchange.max_message_bytes());
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0u);
    bytes[peer] = MessageSize(seed, tag, self, peer, exchange.max_message_bytes());
    FillMessage(seed, tag, self, peer, buffer.subspan(0, bytes[peer]));
  }
  return exchange.Post(tag, bytes);
}

absl::Status ReceiveAll(Exchange& exchange, const ExchangeTag& tag, uint64_t seed,
                        absl::Time deadline) {
  const int self = exchange.rank().value();
  std::vector<absl::Span<const std::byte>> received(exchange.world_size());
  if (absl::Status status = exchange.Wait(tag, deadline, absl::MakeSpan(received)); !status.ok()) {
    return status;
  }
  for (int peer = 0; peer < exchange.world_size(); ++peer) {
    const bool present = exchange.Present(RankId(peer));
    const size_t want =
        present ? MessageSize(seed, tag, peer, self, exchange.max_message_bytes()) : 0;
    if (received[peer].size() != want) {
      return absl::InternalError(absl::StrCat(tag.ToString(), ": rank ", self, " from ", peer,
                                              ": want ", want, " bytes, found ",
                                              received[peer].size()));
    }
    if (reinterpret_cast<uintptr_t>(received[peer].data()) % 64 != 0) {
      return absl::InternalError(
          absl::StrCat(tag.ToString(), ": the message from ", peer, " is not aligned"));
    }
    if (int64_t wrong = FirstWrongByte(seed, tag, peer, self, received[peer]); wrong >= 0) {
      return absl::InternalError(absl::StrCat(tag.ToString(), ": rank ", self, " from ", peer,
                                              ": byte ", wrong, " of ", want, " is wrong"));
    }
  }
  return absl::OkStatus();
}

}  // namespace shoal::comm_test
