// SPDX-License-Identifier: Apache-2.0
#include "coordinator/sim/fiber.h"

#include <sys/mman.h>
#include <ucontext.h>

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "engine/base/check.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace shoal::sim {
namespace {

// Pages that nobody touches cost nothing. The sanitizers' frames are several times as large.
constexpr size_t kStackBytes = size_t{256} << 10;
constexpr size_t kGuardBytes = 4096;

// Stacks are used again: a world makes a few hundred fibers.
struct StackPool {
  ~StackPool() {
    for (void* stack : free) munmap(stack, kStackBytes);
  }
  std::vector<void*> free;
};
thread_local StackPool stacks;

void* TakeStack() {
  if (!stacks.free.empty()) {
    void* const stack = stacks.free.back();
    stacks.free.pop_back();
    return stack;
  }
  void* const stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  SHOAL_CHECK(stack != MAP_FAILED);
  SHOAL_CHECK(mprotect(stack, kGuardBytes, PROT_NONE) == 0);
  return stack;
}

}  // namespace

struct Fiber::Context {
  std::function<void()> body;
  void* stack = nullptr;
  ucontext_t inside;
  ucontext_t outside;
  bool started = false;
  bool finished = false;
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack_inside = nullptr;
  void* fake_stack_outside = nullptr;
  const void* outer_stack = nullptr;
  size_t outer_bytes = 0;
#endif

  static thread_local Context* current;
  static void Enter();
  void SwitchIn();
  void SwitchOut();
};

thread_local Fiber::Context* Fiber::Context::current = nullptr;

void Fiber::Context::SwitchIn() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&fake_stack_outside, stack, kStackBytes);
#endif
  swapcontext(&outside, &inside);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack_outside, nullptr, nullptr);
#endif
}

void Fiber::Context::SwitchOut() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(finished ? nullptr : &fake_stack_inside, outer_stack, outer_bytes);
#endif
  swapcontext(&inside, &outside);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack_inside, &outer_stack, &outer_bytes);
#endif
}

void Fiber::Context::Enter() {
  Context& self = *current;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &self.outer_stack, &self.outer_bytes);
#endif
  self.body();
  self.body = nullptr;  // what it owns ends here, on its own stack
  self.finished = true;
  self.SwitchOut();
}

Fiber::Fiber(std::function<void()> body) : context_(std::make_unique<Context>()) {
  context_->body = std::move(body);
}

Fiber::~Fiber() {
  SHOAL_CHECK(!context_->started || context_->finished);
  if (context_->stack != nullptr) stacks.free.push_back(context_->stack);
}

bool Fiber::finished() const { return context_->finished; }

void Fiber::Resume() {
  SHOAL_CHECK(Context::current == nullptr && !context_->finished);
  if (!context_->started) {
    context_->started = true;
    context_->stack = TakeStack();
    getcontext(&context_->inside);
    context_->inside.uc_stack.ss_sp = context_->stack;
    context_->inside.uc_stack.ss_size = kStackBytes;
    context_->inside.uc_link = nullptr;
    makecontext(&context_->inside, &Context::Enter, 0);
  }
  Context::current = context_.get();
  context_->SwitchIn();
  Context::current = nullptr;
}

void Fiber::Suspend() {
  SHOAL_CHECK(Context::current != nullptr);
  Context::current->SwitchOut();
}

}  // namespace shoal::sim
