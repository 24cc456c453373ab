// SPDX-License-Identifier: Apache-2.0
// Shows that an exchange over shared memory allocates nothing and takes no lock once it runs:
// malloc and both kinds of mutex in use are replaced by ones that count, in the threads that
// exchange. Not built with sanitizers, which replace malloc themselves.
#include <dlfcn.h>
#include <pthread.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <string>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "tests/unit/comm_ranks.h"

namespace {

thread_local bool counting = false;
std::atomic<int64_t> allocations{0};
std::atomic<int64_t> locks{0};

template <typename Function>
Function* Next(const char* name) {
  void* symbol = dlsym(RTLD_NEXT, name);
  if (symbol == nullptr) std::abort();
  return reinterpret_cast<Function*>(symbol);
}

}  // namespace

extern "C" {
void* __libc_malloc(size_t size);
void* __libc_calloc(size_t count, size_t size);
void* __libc_realloc(void* memory, size_t size);

void* malloc(size_t size) {
  if (counting) ++allocations;
  return __libc_malloc(size);
}
void* calloc(size_t count, size_t size) {
  if (counting) ++allocations;
  return __libc_calloc(count, size);
}
void* realloc(void* memory, size_t size) {
  if (counting) ++allocations;
  return __libc_realloc(memory, size);
}
int pthread_mutex_lock(pthread_mutex_t* mutex) {
  static auto* const real = Next<int(pthread_mutex_t*)>("pthread_mutex_lock");
  if (counting) ++locks;
  return real(mutex);
}
}

#define SHOAL_STRING_INNER(x) #x
#define SHOAL_STRING(x) SHOAL_STRING_INNER(x)

using MutexLockFunction = void(absl::Mutex*);

// absl::Mutex::Lock of the library, by its mangled name: absl::<inline namespace>::Mutex::Lock().
static MutexLockFunction* RealLock() {
  static auto* const real = [] {
    const std::string space = SHOAL_STRING(ABSL_OPTION_INLINE_NAMESPACE_NAME);
    const std::string name = "_ZN4absl" + std::to_string(space.size()) + space + "5Mutex4LockEv";
    return Next<MutexLockFunction>(name.c_str());
  }();
  return real;
}
static const bool looked_up = RealLock() != nullptr;  // before anything is counted

void absl::Mutex::Lock() {
  if (counting) ++locks;
  RealLock()(this);
}

namespace shoal::comm_test {
namespace {

TEST(CommAllocation, TheCountersCount) {
  ASSERT_TRUE(looked_up);
  allocations = locks = 0;
  absl::Mutex mutex;
  std::mutex other;
  counting = true;
  { std::vector<int> something(1000); }
  { absl::MutexLock lock(&mutex); }
  { std::lock_guard lock(other); }
  counting = false;
  EXPECT_EQ(allocations, 1);
  EXPECT_EQ(locks, 2);
}

class CommAllocation : public ::testing::TestWithParam<std::string> {};

TEST_P(CommAllocation, SteadyExchangeAllocatesNothingAndTakesNoLock) {
  constexpr int kWorld = 4;
  constexpr size_t kBytes = 20000;
  allocations = locks = 0;
  RunConnected(GetParam(), kWorld, kBytes, [&](Rank&, Exchange& exchange) {
    std::array<size_t, kWorld> bytes;
    bytes.fill(kBytes);
    std::array<absl::Span<const std::byte>, kWorld> received;
    bool ok = true;
    for (int step = 0; step < 2000; ++step) {
      counting = step >= 10;
      const ExchangeTag tag = Tag(1, step / 2, 0, ExchangePhase(step % 2));
      const absl::Time deadline = absl::Now() + absl::Seconds(30);
      for (int peer = 0; peer < kWorld; ++peer) {
        exchange.SendBuffer(tag, RankId(peer), deadline)[0] = std::byte{1};
      }
      ok = ok && exchange.Post(tag, bytes).ok();
      ok = ok && exchange.Wait(tag, deadline, absl::MakeSpan(received)).ok();
      exchange.Release(tag);
    }
    counting = false;
    EXPECT_TRUE(ok);
  });
  EXPECT_EQ(allocations, 0);
  EXPECT_EQ(locks, 0);
}

INSTANTIATE_TEST_SUITE_P(Comm, CommAllocation, ::testing::Values("inprocess", "shm"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace shoal::comm_test
