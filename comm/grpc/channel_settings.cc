// SPDX-License-Identifier: Apache-2.0
#include "comm/grpc/channel_settings.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <sstream>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "comm/hello.h"
#include "comm/message_header.h"
#include "engine/base/status_macros.h"

namespace shoal {
namespace {

// After so long without a word a peer is pinged.
constexpr int kKeepaliveMs = 1000;

std::vector<std::pair<std::string, int>> CommonSettings(const FabricOptions& options) {
  // A whole message may be under way before the receiver's application has asked for it.
  const int window =
      static_cast<int>(std::clamp<size_t>(options.max_message_bytes, 1 << 20, 16 << 20));
  const int patience_ms = static_cast<int>(absl::ToInt64Milliseconds(options.silence_timeout));
  return {{GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs},
          {GRPC_ARG_KEEPALIVE_TIMEOUT_MS, std::max(patience_ms - kKeepaliveMs, kKeepaliveMs)},
          {GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1},
          {GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0},
          {GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, window},
          {GRPC_ARG_HTTP2_MAX_FRAME_SIZE, (1 << 24) - 1}};
}

absl::StatusOr<std::string> ReadWhole(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf())) {
    return absl::NotFoundError(absl::StrCat("TLS file ", path, " cannot be read"));
  }
  return text.str();
}

}  // namespace

absl::StatusOr<TlsTexts> ReadTls(const TlsFiles& files) {
  if (files.certificate.empty() && files.key.empty() && files.ca.empty()) return TlsTexts{};
  if (files.certificate.empty() || files.key.empty() || files.ca.empty()) {
    return absl::InvalidArgumentError(
        "TLS between workers is mutual: it wants a certificate, a key and a CA file");
  }
  TlsTexts tls = {.enabled = true, .certificate = "", .key = "", .ca = ""};
  SHOAL_ASSIGN_OR_RETURN(tls.certificate, ReadWhole(files.certificate));
  SHOAL_ASSIGN_OR_RETURN(tls.key, ReadWhole(files.key));
  SHOAL_ASSIGN_OR_RETURN(tls.ca, ReadWhole(files.ca));
  return tls;
}

std::shared_ptr<grpc::ServerCredentials> MakeServerCredentials(const TlsTexts& tls) {
  if (!tls.enabled) return grpc::InsecureServerCredentials();
  grpc::SslServerCredentialsOptions options(
      GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  options.pem_root_certs = tls.ca;
  options.pem_key_cert_pairs.push_back({tls.key, tls.certificate});
  return grpc::SslServerCredentials(options);
}

std::shared_ptr<grpc::ChannelCredentials> MakeChannelCredentials(const TlsTexts& tls) {
  if (!tls.enabled) return grpc::InsecureChannelCredentials();
  grpc::SslCredentialsOptions options;
  options.pem_root_certs = tls.ca;
  options.pem_private_key = tls.key;
  options.pem_cert_chain = tls.certificate;
  return grpc::SslCredentials(options);
}

int LargestGrpcMessage(size_t max_message_bytes) {
  const size_t largest = kMessageHeaderBytes + std::max(max_message_bytes, kMaxHelloBytes);
  return largest > static_cast<size_t>(std::numeric_limits<int>::max()) ? -1
                                                                        : static_cast<int>(largest);
}

void SetServerOptions(grpc::ServerBuilder& builder, const FabricOptions& options) {
  for (const auto& [name, value] : CommonSettings(options)) {
    builder.AddChannelArgument(name, value);
  }
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // a port in use is an error, not shared
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                             kKeepaliveMs / 2);
  builder.SetMaxReceiveMessageSize(LargestGrpcMessage(options.max_message_bytes));
  builder.SetMaxSendMessageSize(-1);
}

grpc::ChannelArguments MakeChannelArguments(const FabricOptions& options) {
  grpc::ChannelArguments arguments;
  for (const auto& [name, value] : CommonSettings(options)) {
    arguments.SetInt(name, value);
  }
  // Every link is a connection of its own: one that failed must not hold its successor in back-off.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetMaxReceiveMessageSize(LargestGrpcMessage(0));
  arguments.SetMaxSendMessageSize(-1);
  return arguments;
}

}  // namespace shoal
