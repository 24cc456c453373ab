// SPDX-License-Identifier: Apache-2.0
// Linked into every test of a ThreadSanitizer build. Debian's Abseil is built without the sanitizer,
// which therefore does not see that absl::Mutex and absl::Notification order anything, and reports a
// race for all they guard. These definitions come before the library's, tell the sanitizer, and go
// on to the library.
#include <dlfcn.h>
#include <sanitizer/tsan_interface.h>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"

extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
}

namespace {

// The library's own function of this (mangled) name.
template <typename Function>
Function* Library(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

// Conditions of waiting threads are evaluated by whichever thread lets the mutex go, within the
// library and guarded by it: nothing the sanitizer could know.
class IgnoreReads {
 public:
  IgnoreReads() { AnnotateIgnoreReadsBegin(__FILE__, __LINE__); }
  ~IgnoreReads() { AnnotateIgnoreReadsEnd(__FILE__, __LINE__); }
};

// The library's deadlock detector keeps its graph under a spin lock of its own, which the sanitizer does
// not see either.
[[maybe_unused]] const bool no_deadlock_detector = [] {
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  return true;
}();

}  // namespace

// Calls the library's function `symbol` with what happened before the call ordered before whoever
// takes `object` next (RELEASE), and what others did before they let it go ordered before what
// follows (ACQUIRE).
#define SHOAL_ACQUIRE(object) __tsan_acquire(const_cast<void*>(static_cast<const void*>(object)))
#define SHOAL_RELEASE(object) __tsan_release(const_cast<void*>(static_cast<const void*>(object)))
#define SHOAL_LIBRARY(result, symbol, ...) \
  static auto* const library = Library<result(__VA_ARGS__)>(symbol)

namespace absl {
ABSL_NAMESPACE_BEGIN

void Mutex::Lock() {
  SHOAL_LIBRARY(void, "_ZN4absl7debian35Mutex4LockEv", Mutex*);
  library(this);
  SHOAL_ACQUIRE(this);
}

void Mutex::Unlock() {
  SHOAL_LIBRARY(void, "_ZN4absl7debian35Mutex6UnlockEv", Mutex*);
  SHOAL_RELEASE(this);
  const IgnoreReads ignore;
  library(this);
}

bool Mutex::TryLock() {
  SHOAL_LIBRARY(bool, "_ZN4absl7debian35Mutex7TryLockEv", Mutex*);
  const bool locked = library(this);
  if (locked) SHOAL_ACQUIRE(this);
  return locked;
}

void Mutex::ReaderLock() {
  SHOAL_LIBRARY(void, "_ZN4absl7debian35Mutex10ReaderLockEv", Mutex*);
  library(this);
  SHOAL_ACQUIRE(this);
}

void Mutex::ReaderUnlock() {
  SHOAL_LIBRARY(void, "_ZN4absl7debian35Mutex12ReaderUnlockEv", Mutex*);
  SHOAL_RELEASE(this);
  const IgnoreReads ignore;
  library(this);
}

void Mutex::LockWhen(const Condition& condition) {
  SHOAL_LIBRARY(void, "_ZN4absl7debian35Mutex8LockWhenERKNS0_9ConditionE", Mutex*,
                const Condition&);
  {
    const IgnoreReads ignore;
    library(this, condition);
  }
  SHOAL_ACQUIRE(this);
}

bool Mutex::LockWhenWithDeadline(const Condition& condition, Time deadline) {
  SHOAL_LIBRARY(bool, "_ZN4absl7debian35Mutex20LockWhenWithDeadlineERKNS0_9ConditionENS0_4TimeE",
                Mutex*, const Condition&, Time);
  bool met;
  {
    const IgnoreReads ignore;
    met = library(this, condition, deadline);
  }
  SHOAL_ACQUIRE(this);
  return met;
}

bool Mutex::LockWhenWithTimeout(const Condition& condition, Duration timeout) {
  SHOAL_LIBRARY(bool, "_ZN4absl7debian35Mutex19LockWhenWithTimeoutERKNS0_9ConditionENS0_8DurationE",
                Mutex*, const Condition&, Duration);
  bool met;
  {
    const IgnoreReads ignore;
    met = library(this, condition, timeout);
  }
  SHOAL_ACQUIRE(this);
  return met;
}

void Mutex::Await(const Condition& condition) {
  SHOAL_LIBRARY(void, "_ZN4absl7debian35Mutex5AwaitERKNS0_9ConditionE", Mutex*, const Condition&);
  SHOAL_RELEASE(this);
  {
    const IgnoreReads ignore;
    library(this, condition);
  }
  SHOAL_ACQUIRE(this);
}

bool Mutex::AwaitWithDeadline(const Condition& condition, Time deadline) {
  SHOAL_LIBRARY(bool, "_ZN4absl7debian35Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE",
                Mutex*, const Condition&, Time);
  SHOAL_RELEASE(this);
  bool met;
  {
    const IgnoreReads ignore;
    met = library(this, condition, deadline);
  }
  SHOAL_ACQUIRE(this);
  return met;
}

bool Mutex::AwaitWithTimeout(const Condition& condition, Duration timeout) {
  SHOAL_LIBRARY(bool, "_ZN4absl7debian35Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE",
                Mutex*, const Condition&, Duration);
  SHOAL_RELEASE(this);
  bool met;
  {
    const IgnoreReads ignore;
    met = library(this, condition, timeout);
  }
  SHOAL_ACQUIRE(this);
  return met;
}

void CondVar::Wait(Mutex* mutex) {
  SHOAL_LIBRARY(void, "_ZN4absl7debian37CondVar4WaitEPNS0_5MutexE", CondVar*, Mutex*);
  SHOAL_RELEASE(mutex);
  {
    const IgnoreReads ignore;
    library(this, mutex);
  }
  SHOAL_ACQUIRE(mutex);
}

bool CondVar::WaitWithDeadline(Mutex* mutex, Time deadline) {
  SHOAL_LIBRARY(bool, "_ZN4absl7debian37CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE", CondVar*,
                Mutex*, Time);
  SHOAL_RELEASE(mutex);
  bool timed_out;
  {
    const IgnoreReads ignore;
    timed_out = library(this, mutex, deadline);
  }
  SHOAL_ACQUIRE(mutex);
  return timed_out;
}

bool CondVar::WaitWithTimeout(Mutex* mutex, Duration timeout) {
  SHOAL_LIBRARY(bool, "_ZN4absl7debian37CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE",
                CondVar*, Mutex*, Duration);
  SHOAL_RELEASE(mutex);
  bool timed_out;
  {
    const IgnoreReads ignore;
    timed_out = library(this, mutex, timeout);
  }
  SHOAL_ACQUIRE(mutex);
  return timed_out;
}

void Notification::Notify() {
  SHOAL_LIBRARY(void, "_ZN4absl7debian312Notification6NotifyEv", Notification*);
  SHOAL_RELEASE(this);
  library(this);
}

void Notification::WaitForNotification() const {
  SHOAL_LIBRARY(void, "_ZNK4absl7debian312Notification19WaitForNotificationEv",
                const Notification*);
  library(this);
  SHOAL_ACQUIRE(this);
}

bool Notification::WaitForNotificationWithTimeout(Duration timeout) const {
  SHOAL_LIBRARY(bool,
                "_ZNK4absl7debian312Notification30WaitForNotificationWithTimeoutENS0_8DurationE",
                const Notification*, Duration);
  const bool notified = library(this, timeout);
  SHOAL_ACQUIRE(this);
  return notified;
}

bool Notification::WaitForNotificationWithDeadline(Time deadline) const {
  SHOAL_LIBRARY(bool, "_ZNK4absl7debian312Notification31WaitForNotificationWithDeadlineENS0_4TimeE",
                const Notification*, Time);
  const bool notified = library(this, deadline);
  SHOAL_ACQUIRE(this);
  return notified;
}

ABSL_NAMESPACE_END
}  // namespace absl
