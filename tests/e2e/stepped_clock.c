/* SPDX-License-Identifier: Apache-2.0 */
/* A system clock that can be set, for the processes that have this library preloaded: theirs is
   ahead by as many seconds as stand in the file that STEPPED_CLOCK names, 64 bits, which may change
   at any time. As in the kernel, a futex wait until a time of day follows that, in turns of 10 ms;
   whatever goes by the steady clock does not. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static volatile const int64_t* ahead_s;
static long (*kernel)(long, ...);

__attribute__((constructor)) static void start(void) {
  kernel = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
  const char* path = getenv("STEPPED_CLOCK");
  const int file = path == NULL ? -1 : open(path, O_RDONLY | O_CLOEXEC);
  void* mapped = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
  if (kernel == NULL || mapped == MAP_FAILED) abort();
  ahead_s = mapped;
}

int clock_gettime(clockid_t clock, struct timespec* now) {
  if (kernel == NULL) start();
  const int result = (int)kernel(SYS_clock_gettime, clock, now);
  if (result == 0 && clock == CLOCK_REALTIME) now->tv_sec += *ahead_s;
  return result;
}

static int64_t nanoseconds(const struct timespec* time) {
  return time->tv_sec * INT64_C(1000000000) + time->tv_nsec;
}

long syscall(long number, ...) {
  long a[6];
  va_list arguments;
  va_start(arguments, number);
  for (int i = 0; i < 6; ++i) a[i] = va_arg(arguments, long);
  va_end(arguments);
  if (kernel == NULL) start();
  if (number != SYS_futex ||
      a[1] != (FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME) || a[3] == 0) {
    return kernel(number, a[0], a[1], a[2], a[3], a[4], a[5]);
  }
  const int64_t until = nanoseconds((const struct timespec*)a[3]);
  while (1) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    int64_t left = until - nanoseconds(&now);
    if (left > 10000000) left = 10000000;
    if (left <= 0) {
      errno = ETIMEDOUT;
      return -1;
    }
    kernel(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
    const int64_t turn = nanoseconds(&now) + left;
    const struct timespec end = {turn / 1000000000, turn % 1000000000};
    const long result = kernel(SYS_futex, a[0], FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, a[2], &end,
                               NULL, FUTEX_BITSET_MATCH_ANY);
    if (result == 0 || errno != ETIMEDOUT) return result;
  }
}
