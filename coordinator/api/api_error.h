// SPDX-License-Identifier: Apache-2.0
// Errors in OpenAI's shape. Inside the house they are Statuses; the field at fault and OpenAI's
// code ride along as payloads.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "coordinator/api/http_server.h"

namespace shoal {

// InvalidArgument (400): what was sent as `param` cannot be served. `code` is OpenAI's, if it has
// one for this.
absl::Status FieldError(absl::string_view param, absl::string_view message,
                        absl::string_view code = "");

// The same error with OpenAI's code attached.
absl::Status WithErrorCode(absl::Status status, absl::string_view code);

// Unavailable (503): this server takes no new work, because it is about to end.
absl::Status DrainingError();

// 400 InvalidArgument, 401 Unauthenticated, 404 NotFound, 429 ResourceExhausted, 503 Unavailable,
// 504 DeadlineExceeded, 501 Unimplemented, 500 everything else.
int HttpStatusOf(const absl::Status& status);

// {"error": {"message", "type", "param", "code"}}.
std::string ErrorJson(const absl::Status& status);

// The whole answer; with a Retry-After header (whole seconds, at least 1) on 429 and 503.
HttpResponse ErrorResponse(const absl::Status& status,
                           absl::Duration retry_after = absl::ZeroDuration());

}  // namespace shoal
