// SPDX-License-Identifier: Apache-2.0
// Whether a request's body is in a form that this server reads: JSON in UTF-8, uncompressed.
#pragma once

#include <optional>

#include "coordinator/api/http_server.h"

namespace shoal {

// 415 for a body that does not say it is JSON: forms are what `curl -d` sends unless told
// otherwise, and what other sites' pages may send without asking. Without any Content-Type it is
// taken for JSON.
std::optional<HttpResponse> RefusedMedia(const HttpRequest& request);

}  // namespace shoal
