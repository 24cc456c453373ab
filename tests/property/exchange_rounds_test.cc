// SPDX-License-Identifier: Apache-2.0
// Shows that an exchange delivers exactly what was sent, for worlds, message sizes, timing and
// changes of epoch drawn at random: whatever the draw, every rank receives in every exchange the
// message that its peer computed for it, never one of another exchange or epoch. The seed is
// printed; SHOAL_SEED repeats a run.
#include <cstdlib>
#include <random>

#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "tests/unit/comm_ranks.h"

namespace shoal::comm_test {
namespace {

struct Draw {
  uint64_t seed;
  int world;
  size_t max_message_bytes;
  int epochs;
  int layers;     // exchanges of each phase per epoch
  int abandoned;  // in every epoch this many ranks leave off in the middle
  int pause_one_in;
};

Draw MakeDraw(uint64_t seed) {
  std::mt19937_64 random(seed);
  Draw draw;
  draw.seed = seed;
  draw.world = 1 + static_cast<int>(random() % 16);
  draw.max_message_bytes = 1 + (random() % 4 == 0 ? random() % 200000 : random() % 3000);
  draw.epochs = 1 + static_cast<int>(random() % 4);
  draw.layers = 1 + static_cast<int>(random() % (160 / draw.world));
  draw.abandoned = static_cast<int>(random() % 2);
  draw.pause_one_in = 5 + static_cast<int>(random() % 200);
  return draw;
}

absl::Time Soon() { return absl::Now() + absl::Seconds(60); }

// One rank's part. In an epoch that is abandoned, rank 0 cancels somewhere in the middle and the
// others find out by the next epoch or by its silence; nobody may see a wrong message meanwhile.
void Play(const Draw& draw, Rank& me, Exchange& exchange) {
  std::mt19937_64 random(draw.seed ^ (me.rank + 1));
  for (int64_t epoch = 1; epoch <= draw.epochs; ++epoch) {
    if (epoch > 1) {
      ASSERT_EQ(exchange.InstallEpoch(Epoch(epoch)), absl::OkStatus());
    }
    const bool broken = draw.abandoned > 0 && epoch < draw.epochs;
    const int stop =
        broken && me.rank == 0 ? static_cast<int>(random() % draw.layers) : draw.layers;
    // What may happen in a broken epoch beside success.
    const auto acceptable = [&](const absl::Status& status) {
      return status.ok() ||
             (broken && (absl::IsAborted(status) || absl::IsDeadlineExceeded(status)));
    };
    for (int layer = 0; layer < stop; ++layer) {
      if (random() % draw.pause_one_in == 0) {
        absl::SleepFor(absl::Microseconds(random() % 2000));
      }
      const ExchangeTag dispatch = Tag(epoch, 9, layer, ExchangePhase::kDispatch);
      const ExchangeTag combine = Tag(epoch, 9, layer, ExchangePhase::kCombine);
      const absl::Time deadline = broken ? absl::Now() + absl::Milliseconds(50) : Soon();
      absl::Status status = SendAll(exchange, dispatch, draw.seed, deadline);
      if (status.ok()) status = ReceiveAll(exchange, dispatch, draw.seed, deadline);
      if (status.ok()) status = SendAll(exchange, combine, draw.seed, deadline);
      if (status.ok()) exchange.Release(dispatch);
      if (status.ok()) status = ReceiveAll(exchange, combine, draw.seed, deadline);
      if (status.ok()) exchange.Release(combine);
      ASSERT_TRUE(acceptable(status)) << "rank " << me.rank << ": " << status;
      if (!status.ok()) break;
    }
    if (broken && me.rank == 0) exchange.Cancel();
    if (!broken) me.meet();  // a new epoch forgets what is in flight, also to a slower rank
  }
}

class ExchangeRounds : public ::testing::TestWithParam<std::string> {};

TEST_P(ExchangeRounds, DeliverWhatWasSentWhateverTheDraw) {
  const char* given = std::getenv("SHOAL_SEED");
  const int draws = given != nullptr ? 1 : GetParam() == "grpc" ? 6 : 15;
  for (int i = 0; i < draws; ++i) {
    const uint64_t seed =
        given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device()();
    const Draw draw = MakeDraw(seed);
    std::cout << "SHOAL_SEED=" << seed << " " << GetParam() << " world " << draw.world << " max "
              << draw.max_message_bytes << " epochs " << draw.epochs << " layers " << draw.layers
              << std::endl;
    RunConnected(GetParam(), draw.world, draw.max_message_bytes,
                 [&](Rank& me, Exchange& exchange) { Play(draw, me, exchange); });
    if (HasFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(Comm, ExchangeRounds, ::testing::ValuesIn(Transports()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace shoal::comm_test
