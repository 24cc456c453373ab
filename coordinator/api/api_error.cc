// SPDX-License-Identifier: Apache-2.0
// See api_error.h.
#include "coordinator/api/api_error.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"

namespace shoal {
namespace {

constexpr absl::string_view kParamUrl = "shoal/param";
constexpr absl::string_view kCodeUrl = "shoal/code";

nlohmann::ordered_json PayloadOrNull(const absl::Status& status, absl::string_view url) {
  const auto payload = status.GetPayload(url);
  if (!payload.has_value()) return nullptr;
  return std::string(*payload);
}

const char* ErrorType(int http_status) {
  switch (http_status) {
    case 401:
      return "authentication_error";
    case 404:
      return "not_found_error";
    case 429:
      return "rate_limit_error";
    default:
      return http_status < 500 ? "invalid_request_error" : "server_error";
  }
}

}  // namespace

absl::Status FieldError(absl::string_view param, absl::string_view message,
                        absl::string_view code) {
  absl::Status status = absl::InvalidArgumentError(absl::StrCat(param, ": ", message));
  status.SetPayload(kParamUrl, absl::Cord(param));
  return code.empty() ? status : WithErrorCode(std::move(status), code);
}

absl::Status WithErrorCode(absl::Status status, absl::string_view code) {
  status.SetPayload(kCodeUrl, absl::Cord(code));
  return status;
}

absl::Status DrainingError() {
  return WithErrorCode(absl::UnavailableError("draining: the server is shutting down"), "draining");
}

int HttpStatusOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return 200;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      return 400;
    case absl::StatusCode::kUnauthenticated:
      return 401;
    case absl::StatusCode::kPermissionDenied:
      return 403;
    case absl::StatusCode::kNotFound:
      return 404;
    case absl::StatusCode::kResourceExhausted:
      return 429;
    case absl::StatusCode::kUnimplemented:
      return 501;
    case absl::StatusCode::kUnavailable:
      return 503;
    case absl::StatusCode::kDeadlineExceeded:
      return 504;
    default:
      return 500;
  }
}

std::string ErrorJson(const absl::Status& status) {
  nlohmann::ordered_json error;
  error["message"] = std::string(status.message());
  error["type"] = ErrorType(HttpStatusOf(status));
  error["param"] = PayloadOrNull(status, kParamUrl);
  error["code"] = PayloadOrNull(status, kCodeUrl);
  nlohmann::ordered_json body;
  body["error"] = std::move(error);
  return body.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

HttpResponse ErrorResponse(const absl::Status& status, absl::Duration retry_after) {
  HttpResponse response;
  response.status = HttpStatusOf(status);
  response.body = ErrorJson(status);
  if (response.status == 429 || response.status == 503) {
    const double seconds = std::ceil(absl::ToDoubleSeconds(retry_after));
    response.headers.emplace_back("Retry-After",
                                  absl::StrCat(static_cast<int>(std::clamp(seconds, 1.0, 3600.0))));
  }
  if (response.status == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer");
  return response;
}

}  // namespace shoal
