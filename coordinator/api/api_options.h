// SPDX-License-Identifier: Apache-2.0
// Everything the API can be told: where to listen, who may ask, what the model is, what a client
// may take.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/time/time.h"
#include "coordinator/api/generation_config.h"
#include "engine/config/model_config.h"
#include "engine/text/chat_template.h"

namespace shoal {

// What one connection, one request and the server as a whole may take. All of it has a bound.
struct ApiLimits {
  size_t max_header_bytes = 32 << 10;
  size_t max_body_bytes = 16 << 20;
  size_t max_connections = 4096;            // further ones are closed at once
  size_t max_write_buffer_bytes = 1 << 20;  // unsent part of a streamed answer; beyond: client cut
  int max_n = 128;                          // choices of one prompt
  int max_prompts = 256;                    // prompts of one completion request
  int max_choices = 1024;                   // prompts * n
  int max_stop_strings = 16;
  size_t max_stop_bytes = 4096;                       // of one stop string
  absl::Duration header_timeout = absl::Seconds(10);  // first byte of a request to end of header
  absl::Duration body_timeout = absl::Seconds(60);    // end of header to end of body
  absl::Duration idle_timeout = absl::Seconds(75);    // between two requests of a connection
  absl::Duration write_timeout = absl::Seconds(20);   // without a byte accepted by the client
  absl::Duration request_timeout = absl::Hours(1);    // arrival to last token; then 504
};

struct ApiOptions {
  std::string listen = "127.0.0.1:8000";  // HOST:PORT, [V6]:PORT; port 0 picks a free one
  std::string tls_certificate_file;       // PEM chain and its key; both or neither
  std::string tls_key_file;
  std::string api_keys_file;  // one key a line, '#' starts a comment; empty: no key is asked for
  bool insecure = false;      // allow listening beyond loopback without TLS and API keys
  int io_threads = 4;         // a long prompt keeps one busy while it is tokenised

  std::string served_model_name;          // what clients call the model
  std::string version;                    // for /version
  std::optional<ChatFormat> chat_format;  // none: no known chat template, chat is refused
  ModelConfig model;                      // vocab_size, context, bos and eos are used
  int64_t max_context = 0;  // prompt + generated tokens; 0: model.max_position_embeddings
  bool prepend_bos = true;  // to completion prompts given as text (once)
  SamplingDefaults sampling;
  ApiLimits limits;
};

}  // namespace shoal
