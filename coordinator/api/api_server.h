// SPDX-License-Identifier: Apache-2.0
// The HTTP face of the coordinator: OpenAI's completions and chat completions beside tokenising,
// health, cluster state and metrics. It turns JSON into Requests for the core and the core's
// emissions into JSON or server-sent events.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/api/cluster_port.h"
#include "coordinator/api/generation_config.h"
#include "engine/config/model_config.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"

namespace shoal {

// What one connection, one request and the server as a whole may take. All of it has a bound.
struct ApiLimits {
  size_t max_header_bytes = 32 << 10;
  size_t max_body_bytes = 16 << 20;
  size_t max_connections = 4096;  // beyond: 503 and close
  size_t max_write_buffer_bytes =
      1 << 20;             // unsent bytes of a streamed answer; beyond: the client is cut
  int max_n = 128;         // choices of one prompt
  int max_prompts = 256;   // prompts of one completion request
  int max_choices = 1024;  // prompts * n
  int max_stop_strings = 16;
  absl::Duration header_timeout =
      absl::Seconds(10);  // from the first byte of a request to the end of its header
  absl::Duration body_timeout =
      absl::Seconds(60);  // from the end of the header to the end of the body
  absl::Duration idle_timeout =
      absl::Seconds(75);  // between two requests of a connection; also the TLS handshake
  absl::Duration write_timeout = absl::Seconds(20);  // without a byte accepted by the client
};

struct ApiOptions {
  std::string listen = "127.0.0.1:8000";  // HOST:PORT, [V6]:PORT; port 0 picks a free one
  std::string tls_certificate_file;       // PEM chain and its key; both or neither
  std::string tls_key_file;
  std::string api_keys_file;  // one key a line, '#' starts a comment; empty: no key is asked for
  bool insecure = false;      // allow listening beyond loopback without TLS and API keys
  int io_threads = 2;

  std::string served_model_name;  // what clients call the model; also the answer of /v1/models
  std::string version;            // for /version
  std::optional<ChatFormat>
      chat_format;          // none: the checkpoint has no known chat template, chat is refused
  ModelConfig model;        // vocab_size, context, bos and eos are used
  int64_t max_context = 0;  // prompt + generated tokens; 0: model.max_position_embeddings
  SamplingDefaults sampling;
  ApiLimits limits;
};

class ApiServer : public EmissionSink {
 public:
  // Binds, listens and starts answering (503 until the cluster serves). `tokenizer` and `cluster`
  // outlive the server. The cluster must pass its Emit and Reject commands to the server for as
  // long as the server lives.
  //
  // Errors: InvalidArgument for an unusable option, naming it; FailedPrecondition for an insecure
  // listener; NotFound or InvalidArgument for certificate or key files; AlreadyExists when the port
  // is in use.
  static absl::StatusOr<std::unique_ptr<ApiServer>> Create(ApiOptions options,
                                                           const Tokenizer& tokenizer,
                                                           ClusterPort& cluster);
  ~ApiServer() override;  // Stop(now)
  ApiServer(const ApiServer&) = delete;
  ApiServer& operator=(const ApiServer&) = delete;

  // "http://127.0.0.1:43215" or "https://...": the bound address, its port resolved.
  std::string address() const;

  // Drains: refuses new work (503) at once, lets running requests finish until `deadline`, then
  // cancels them and closes every connection. Blocks; any thread but the core's; a second call
  // returns when the first is done.
  void Stop(absl::Time deadline);

  // EmissionSink, called from the core's thread: only enqueue.
  void OnEmit(Emit emit) override;
  void OnReject(Reject reject) override;

 private:
  class State;
  explicit ApiServer(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

}  // namespace shoal
