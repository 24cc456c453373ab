// SPDX-License-Identifier: Apache-2.0
#include "tests/property/token_path_counter.h"

#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "absl/synchronization/mutex.h"

namespace shoal {
namespace {

std::atomic<bool> armed{false};
std::atomic<int64_t> allocations{0};
std::atomic<int64_t> locks{0};

void CountAllocation() {
  if (armed.load(std::memory_order_relaxed)) allocations.fetch_add(1, std::memory_order_relaxed);
}
void CountLock() {
  if (armed.load(std::memory_order_relaxed)) locks.fetch_add(1, std::memory_order_relaxed);
}

// The next definition of a function that this file replaces.
template <typename Function>
Function* Next(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

}  // namespace

void ArmTokenPathCounter() {
  allocations = 0;
  locks = 0;
  armed = true;
}

TokenPathCounts DisarmTokenPathCounter() {
  armed = false;
  return {allocations, locks};
}

}  // namespace shoal

// Abseil is linked as a shared library, so the program's own definition of Lock comes first.
#define SHOAL_QUOTE_INNER(text) #text
#define SHOAL_QUOTE(text) SHOAL_QUOTE_INNER(text)
void absl::Mutex::Lock() {
  constexpr const char* kInlineNamespace = SHOAL_QUOTE(ABSL_OPTION_INLINE_NAMESPACE_NAME);
  static auto* const next = [] {
    char name[64];
    std::snprintf(name, sizeof(name), "_ZN4absl%zu%s5Mutex4LockEv", std::strlen(kInlineNamespace),
                  kInlineNamespace);
    return shoal::Next<void(absl::Mutex*)>(name);
  }();
  shoal::CountLock();
  next(this);
}

// glibc's own entry points, so that replacing malloc needs no dlsym (which allocates).
extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);

void* malloc(size_t size) {
  shoal::CountAllocation();
  return __libc_malloc(size);
}
void* calloc(size_t count, size_t size) {
  shoal::CountAllocation();
  return __libc_calloc(count, size);
}
void* realloc(void* pointer, size_t size) {
  shoal::CountAllocation();
  return __libc_realloc(pointer, size);
}
void* memalign(size_t alignment, size_t size) {
  shoal::CountAllocation();
  return __libc_memalign(alignment, size);
}
void* aligned_alloc(size_t alignment, size_t size) {
  shoal::CountAllocation();
  return __libc_memalign(alignment, size);
}
int posix_memalign(void** pointer, size_t alignment, size_t size) {
  shoal::CountAllocation();
  *pointer = __libc_memalign(alignment, size);
  return *pointer == nullptr ? ENOMEM : 0;
}

int pthread_mutex_lock(pthread_mutex_t* mutex) {
  static auto* const next = shoal::Next<int(pthread_mutex_t*)>("pthread_mutex_lock");
  shoal::CountLock();
  return next(mutex);
}
int pthread_rwlock_rdlock(pthread_rwlock_t* lock) {
  static auto* const next = shoal::Next<int(pthread_rwlock_t*)>("pthread_rwlock_rdlock");
  shoal::CountLock();
  return next(lock);
}
int pthread_rwlock_wrlock(pthread_rwlock_t* lock) {
  static auto* const next = shoal::Next<int(pthread_rwlock_t*)>("pthread_rwlock_wrlock");
  shoal::CountLock();
  return next(lock);
}
}  // extern "C"
