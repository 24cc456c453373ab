// SPDX-License-Identifier: Apache-2.0
#include "engine/device/cpu/machine_limits.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "engine/base/status_macros.h"
#include "engine/device/cpu/memory.h"
#include "engine/device/cpu/simd/isa.h"

namespace shoal::cpu {
namespace {

// Seconds that `body(thread)` takes on all threads at once, from the moment all of them run.
template <typename Body>
double Timed(int threads, const Body& body) {
  std::atomic<int> ready{0};
  std::vector<std::thread> others;
  const auto run = [&](int i) {
    ready.fetch_add(1);
    while (ready.load() < threads) std::this_thread::yield();
    body(i);
  };
  for (int i = 1; i < threads; ++i) others.emplace_back(run, i);
  ready.fetch_add(1);
  while (ready.load() < threads) std::this_thread::yield();
  const auto start = std::chrono::steady_clock::now();
  body(0);
  for (std::thread& other : others) other.join();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

absl::StatusOr<std::unique_ptr<MachineLimits>> MachineLimits::Create(int threads, size_t bytes) {
  SHOAL_ASSIGN_OR_RETURN(auto pages, Pages::Map(bytes, "bandwidth probe"));
  std::memset(pages->data(), 1, bytes);  // zero pages would all be one page
  return std::unique_ptr<MachineLimits>(new MachineLimits(threads, std::move(pages)));
}

MachineLimits::MachineLimits(int threads, std::unique_ptr<Pages> pages)
    : threads_(threads), pages_(std::move(pages)) {}
MachineLimits::~MachineLimits() = default;

double MachineLimits::ReadBandwidth() {
  const Isa& isa = *SupportedIsas().isas[0];
  const size_t part = pages_->bytes() / threads_ / 512 * 512;
  std::atomic<uint64_t> sink{0};
  double best = 0;
  for (const int streams : {1, 8, 1, 8}) {
    const double seconds =
        Timed(threads_, [&](int i) { sink ^= isa.read(pages_->data() + i * part, part, streams); });
    best = std::max(best, static_cast<double>(part) * threads_ / seconds);
  }
  return best;
}

double MachineLimits::Bf16Peak() {
  const Isa& isa = *SupportedIsas().isas[0];
  // Long enough to see past the start of the threads: about 20 ms.
  constexpr int64_t kRounds = 4'000'000;
  std::atomic<int64_t> products{0};
  double best = 0;
  for (int attempt = 0; attempt < 3; ++attempt) {
    products = 0;
    const double seconds = Timed(threads_, [&](int) { products += isa.peak_bf16(kRounds); });
    best = std::max(best, 2.0 * static_cast<double>(products.load()) / seconds);
  }
  return best;
}

}  // namespace shoal::cpu
