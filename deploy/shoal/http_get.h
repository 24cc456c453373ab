// SPDX-License-Identifier: Apache-2.0
// One GET, for `shoal status`.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace shoal {

struct HttpGetOptions {
  std::string url;      // "http://HOST:PORT/path", "https://..."
  std::string api_key;  // sent as a bearer token if not empty
  std::string ca_file;  // https: PEM authority beside the system's own
  absl::Duration timeout = absl::Seconds(5);
};

// The body of a 200 answer. Errors: InvalidArgument for a URL that is none; Unavailable naming host
// and reason; DeadlineExceeded; PermissionDenied for 401 and 403; Internal for other answers, with
// their body.
absl::StatusOr<std::string> HttpGet(const HttpGetOptions& options);

}  // namespace shoal
