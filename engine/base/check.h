// SPDX-License-Identifier: Apache-2.0
// SHOAL_CHECK: a broken invariant is our own bug; say where and stop. Kept in release builds. Nothing that a request, a
// file or a peer can cause may reach one: those get a Status. SHOAL_DCHECK is for inner loops, gone in release.
#pragma once

#include <cstdio>
#include <cstdlib>

namespace shoal {

[[noreturn]] inline void CheckFailed(const char* file, int line, const char* condition) {
  std::fprintf(stderr, "%s:%d: CHECK failed: %s\n", file, line, condition);
  std::abort();
}

}  // namespace shoal

#define SHOAL_CHECK(condition) \
  (static_cast<bool>(condition) ? void(0) : ::shoal::CheckFailed(__FILE__, __LINE__, #condition))
#ifdef NDEBUG
#define SHOAL_DCHECK(condition) SHOAL_CHECK(true || (condition))
#else
#define SHOAL_DCHECK(condition) SHOAL_CHECK(condition)
#endif
