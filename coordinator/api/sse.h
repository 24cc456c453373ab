// SPDX-License-Identifier: Apache-2.0
// Server-sent events, as far as OpenAI's streams use them.
#pragma once

#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace shoal {

inline constexpr absl::string_view kSseContentType = "text/event-stream; charset=utf-8";

// One event. `data` is JSON on one line.
inline std::string SseEvent(absl::string_view data) { return absl::StrCat("data: ", data, "\n\n"); }

// The event that ends a stream.
inline constexpr absl::string_view kSseDone = "data: [DONE]\n\n";

}  // namespace shoal
