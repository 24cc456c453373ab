// SPDX-License-Identifier: Apache-2.0
#include <thread>

#include "absl/synchronization/mutex.h"
#include "gtest/gtest.h"
#include "tests/unit/comm_ranks.h"

namespace shoal::comm_test {
namespace {

// A barrier that can be used again and again.
class Meeting {
 public:
  explicit Meeting(int size) : size_(size) {}
  void Arrive() {
    absl::MutexLock lock(&mutex_);
    const int64_t round = arrived_++ / size_;
    const auto all_here = [this, round] { return arrived_ >= (round + 1) * size_; };
    // A rank whose test failed does not come; let the others say so and end.
    if (!mutex_.AwaitWithTimeout(absl::Condition(&all_here), absl::Seconds(60))) {
      ADD_FAILURE() << "only " << arrived_ % size_ << " of " << size_ << " ranks met";
    }
  }

 private:
  const int64_t size_;
  absl::Mutex mutex_;
  int64_t arrived_ = 0;
};

}  // namespace

std::vector<std::string> Transports() { return {"inprocess", "shm", "grpc"}; }
int LargestWorld() { return 16; }

void RunRanks(int world, const std::function<FabricOptions(int rank)>& options,
              const std::function<void(Rank&)>& body) {
  Meeting meeting(world);
  std::vector<Rank> ranks(world);
  std::vector<std::string> endpoints;
  for (int r = 0; r < world; ++r) {
    ranks[r].rank = r;
    ranks[r].world = world;
    ranks[r].options = options(r);
    absl::StatusOr<std::unique_ptr<Fabric>> fabric = Fabric::Create(ranks[r].options);
    ASSERT_TRUE(fabric.ok()) << fabric.status();
    EXPECT_EQ((*fabric)->transport(), ranks[r].options.transport);
    endpoints.push_back((*fabric)->endpoint());
    ranks[r].fabric = *std::move(fabric);
    ranks[r].meet = [&meeting] { meeting.Arrive(); };
  }
  std::vector<std::thread> threads;
  for (Rank& rank : ranks) {
    rank.endpoints = endpoints;
    threads.emplace_back([&body, &rank] { body(rank); });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace shoal::comm_test
