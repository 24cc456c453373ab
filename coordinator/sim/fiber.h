// SPDX-License-Identifier: Apache-2.0
// A function that can be left in the middle and gone on with: what a simulated worker, whose code waits as
// if it had a thread of its own, runs on. All fibers of a world live on one thread, so that exactly one of
// them moves at a time and a seed decides which.
#pragma once

#include <functional>
#include <memory>

namespace shoal::sim {

class Fiber {
 public:
  explicit Fiber(std::function<void()> body);
  // Requires finished(), or that Resume was never called.
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Runs the body until it calls Suspend or returns. Not from within a fiber.
  void Resume();
  // Back to who called Resume. Only from within a fiber.
  static void Suspend();

  bool finished() const;

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

}  // namespace shoal::sim
