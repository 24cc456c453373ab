// SPDX-License-Identifier: Apache-2.0
// See request_media.h.
#include "coordinator/api/request_media.h"

#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "coordinator/api/api_error.h"

namespace shoal {

std::optional<HttpResponse> RefusedMedia(const HttpRequest& request) {
  const auto refused = [](const std::string& message) {
    HttpResponse response = ErrorResponse(absl::InvalidArgumentError(message));
    response.status = 415;
    return response;
  };
  const absl::string_view encoding = request.Header("content-encoding");
  if (!encoding.empty() && !absl::EqualsIgnoreCase(encoding, "identity")) {
    HttpResponse response =
        refused(absl::StrCat("Content-Encoding: want the body as it is, found \"",
                             encoding.substr(0, 60), "\"; send it uncompressed"));
    response.headers.emplace_back("Accept-Encoding", "identity");
    return response;
  }
  const absl::string_view type = request.Header("content-type");
  if (type.empty()) return std::nullopt;
  const std::vector<absl::string_view> parts = absl::StrSplit(type, ';');
  if (!absl::EqualsIgnoreCase(absl::StripAsciiWhitespace(parts[0]), "application/json")) {
    return refused(absl::StrCat("Content-Type: want application/json, found \"", type.substr(0, 60),
                                "\"; with curl, add -H 'Content-Type: application/json'"));
  }
  for (size_t i = 1; i < parts.size(); ++i) {
    const std::string parameter = absl::AsciiStrToLower(absl::StripAsciiWhitespace(parts[i]));
    absl::string_view charset = parameter;
    if (!absl::ConsumePrefix(&charset, "charset=")) continue;
    if (charset.size() >= 2 && charset.front() == '"' && charset.back() == '"') {
      charset = charset.substr(1, charset.size() - 2);
    }
    if (charset != "utf-8" && charset != "utf8" && charset != "us-ascii") {
      return refused(
          absl::StrCat("Content-Type: want charset utf-8, found \"", charset.substr(0, 60), "\""));
    }
  }
  return std::nullopt;
}

}  // namespace shoal
