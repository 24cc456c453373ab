// SPDX-License-Identifier: Apache-2.0
// The two ways a Status travels up: return it, or unwrap the value it guards.
#pragma once

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define SHOAL_MACRO_CONCAT_INNER(a, b) a##b
#define SHOAL_MACRO_CONCAT(a, b) SHOAL_MACRO_CONCAT_INNER(a, b)

#define SHOAL_RETURN_IF_ERROR(expr)                        \
  do {                                                     \
    if (absl::Status shoal_status = (expr); !shoal_status.ok()) return shoal_status; \
  } while (false)

// SHOAL_ASSIGN_OR_RETURN(auto x, MakeX()); declares x or returns the error.
#define SHOAL_ASSIGN_OR_RETURN(lhs, expr) \
  SHOAL_ASSIGN_OR_RETURN_IMPL(SHOAL_MACRO_CONCAT(shoal_or_, __LINE__), lhs, expr)
#define SHOAL_ASSIGN_OR_RETURN_IMPL(tmp, lhs, expr) \
  auto tmp = (expr);                                \
  if (!tmp.ok()) return std::move(tmp).status();    \
  lhs = *std::move(tmp)
