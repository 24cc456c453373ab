// SPDX-License-Identifier: Apache-2.0
// What this machine can do at best, measured with the loops of the instruction set the backend
// uses: benchmarks print their results beside these, taken in the same run, because a shared host
// changes its limits within seconds.
#pragma once

#include <cstddef>
#include <memory>

#include "absl/status/statusor.h"

namespace shoal::cpu {

class Pages;

class MachineLimits {
 public:
  // `threads` pinned nowhere, as the backend's are. `bytes`: what one reading streams; far more
  // than the caches.
  static absl::StatusOr<std::unique_ptr<MachineLimits>> Create(int threads,
                                                               size_t bytes = size_t{1} << 30);
  ~MachineLimits();

  // Streaming read, bytes per second: the better of one and of eight streams per thread.
  double ReadBandwidth();
  // bf16 products with f32 sums from registers, FLOP per second (a multiply-add is two).
  double Bf16Peak();

 private:
  MachineLimits(int threads, std::unique_ptr<Pages> pages);

  int threads_;
  std::unique_ptr<Pages> pages_;
};

}  // namespace shoal::cpu
