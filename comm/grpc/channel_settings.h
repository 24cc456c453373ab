// SPDX-License-Identifier: Apache-2.0
// Credentials and transport settings of the row streams, the same for both ends.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "comm/fabric.h"
#include "grpcpp/grpcpp.h"

namespace shoal {

// The contents of TlsFiles; empty without TLS.
struct TlsTexts {
  bool enabled = false;
  std::string certificate;
  std::string key;
  std::string ca;
};

// Errors: InvalidArgument when only some of the three files are named; NotFound naming a file that
// cannot be read.
absl::StatusOr<TlsTexts> ReadTls(const TlsFiles& files);

std::shared_ptr<grpc::ServerCredentials> MakeServerCredentials(const TlsTexts& tls);
std::shared_ptr<grpc::ChannelCredentials> MakeChannelCredentials(const TlsTexts& tls);

// The largest gRPC message of a fabric with such messages: with its header, or a hello. -1 (no
// limit) above 2 GB.
int LargestGrpcMessage(size_t max_message_bytes);

void SetServerOptions(grpc::ServerBuilder& builder, const FabricOptions& options);
grpc::ChannelArguments MakeChannelArguments(const FabricOptions& options);

}  // namespace shoal
