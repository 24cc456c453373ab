// SPDX-License-Identifier: Apache-2.0
#include "engine/base/endpoint.h"

#include <algorithm>
#include <cstddef>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace shoal {
namespace {

constexpr size_t kMaxEndpoint = 1024;  // peers' hellos hold 8192 bytes
constexpr size_t kShown = 128;
constexpr size_t kMaxSocketName = 100;  // sun_path holds 107 beside the leading zero

absl::Status NoEndpoint(absl::string_view transport, absl::string_view endpoint,
                        absl::string_view wanted) {
  return absl::InvalidArgumentError(absl::StrCat("not an endpoint of transport ", transport, ": '",
                                                 absl::CHexEscape(endpoint.substr(0, kShown)),
                                                 endpoint.size() > kShown ? "...'" : "'", ", want ",
                                                 wanted));
}

bool IsHost(absl::string_view host) {
  if (host.empty() || !std::all_of(host.begin(), host.end(), absl::ascii_isgraph)) return false;
  const bool bracketed = host.size() > 2 && host.front() == '[' && host.back() == ']';
  return bracketed || host.find(':') == absl::string_view::npos;
}

bool IsNumber(absl::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), absl::ascii_isdigit);
}

}  // namespace

absl::StatusOr<absl::string_view> GrpcAddress(absl::string_view endpoint) {
  absl::string_view address = endpoint;
  const bool prefixed = absl::ConsumePrefix(&address, "grpc:");
  const size_t colon = address.rfind(':');
  int port = 0;
  if (!prefixed || endpoint.size() > kMaxEndpoint || colon == absl::string_view::npos ||
      !IsHost(address.substr(0, colon)) || !IsNumber(address.substr(colon + 1)) ||
      !absl::SimpleAtoi(address.substr(colon + 1), &port) || port < 1 || port > 65535) {
    return NoEndpoint("grpc", endpoint, "grpc:HOST:PORT");
  }
  return address;
}

absl::StatusOr<ShmAddress> ParseShmEndpoint(absl::string_view endpoint) {
  absl::string_view rest = endpoint;
  const bool prefixed = absl::ConsumePrefix(&rest, "shm:");
  const size_t colon = rest.find(':');
  if (!prefixed || endpoint.size() > kMaxEndpoint || colon == absl::string_view::npos ||
      colon + 1 == rest.size() || rest.size() - colon - 1 > kMaxSocketName) {
    return NoEndpoint("shm", endpoint, "shm:HOST:SOCKET");
  }
  return ShmAddress{.host = rest.substr(0, colon), .socket = rest.substr(colon + 1)};
}

absl::Status CheckEndpoint(absl::string_view transport, absl::string_view endpoint) {
  if (transport == "grpc") return GrpcAddress(endpoint).status();
  if (transport == "shm") return ParseShmEndpoint(endpoint).status();
  absl::string_view rest = endpoint;
  if (transport == "inprocess") {
    if (absl::ConsumePrefix(&rest, "inprocess:") && IsNumber(rest) && rest.size() < kShown)
      return absl::OkStatus();
    return NoEndpoint(transport, endpoint, "inprocess:NUMBER");
  }
  if (transport == "mpi") {
    const bool prefixed = absl::ConsumePrefix(&rest, "mpi:");
    const size_t colon = rest.find(':');
    if (prefixed && endpoint.size() <= kMaxEndpoint && colon != absl::string_view::npos &&
        IsNumber(rest.substr(0, colon)))
      return absl::OkStatus();
    return NoEndpoint(transport, endpoint, "mpi:RANK:PROCESS");
  }
  if (!endpoint.empty() && endpoint.size() <= kMaxEndpoint) return absl::OkStatus();
  return NoEndpoint(transport, endpoint, absl::StrCat("1 to ", kMaxEndpoint, " bytes"));
}

}  // namespace shoal
