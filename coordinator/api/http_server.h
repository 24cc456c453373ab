// SPDX-License-Identifier: Apache-2.0
// HTTP/1.1 over TCP or TLS: connections, parsing, limits, timeouts, keep-alive, streamed answers.
// Knows nothing of what is served; a handler gets whole requests and answers them when it likes.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace shoal {

struct HttpRequest {
  std::string method;  // "GET", as sent
  std::string path;    // target up to '?', not percent-decoded, without "http://HOST" in front
  std::vector<std::pair<std::string, std::string>> headers;  // names in lower case, in order
  std::string body;
  std::string peer;  // "ADDRESS:PORT"

  // The first header of that (lower case) name, or empty.
  absl::string_view Header(absl::string_view name) const;
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::vector<std::pair<std::string, std::string>>
      headers;  // beside Date, Content-* and Connection
  std::string body;
};

// Why a connection ended before its answer did.
enum class HttpLoss {
  kClientGone,  // closed or reset by the client
  kSlowClient,  // took no byte within the write timeout
  kStopped,     // HttpServer::Stop ran out of patience
  kFailed,      // the handler threw, or called Abort
};

// One request waiting for its answer. Everything about it happens on one strand (no two callbacks
// at a time): the handler's call, functions given to Post and PostAfter, and OnClosed's. Only Post
// and PostAfter may be called from elsewhere; both still run their function when the connection is
// already gone. Exchanges may outlive their connection, but not the server.
class HttpExchange {
 public:
  virtual ~HttpExchange() = default;

  // Either the whole answer at once ...
  virtual void Respond(HttpResponse response) = 0;
  // ... or its head, then pieces (sent at once), then Finish. Calls after the connection was lost
  // do nothing.
  virtual void StartStream(HttpResponse head) = 0;
  // False: more than max_write_buffer_bytes wait for the client to read them, and this piece was
  // not taken; there is nothing left but to Cut.
  [[nodiscard]] virtual bool Write(absl::string_view piece) = 0;
  virtual void Finish() = 0;
  // Finish for a client that is too slow: pieces not yet on their way are dropped, `last` follows
  // those that are, then the connection ends, at the latest after the write timeout.
  virtual void Cut(absl::string_view last) = 0;

  // Ends the connection with whatever of the answer has gone out: an answer that broke in the
  // middle must not look complete.
  virtual void Abort() = 0;

  // `closed` runs once, never from within another call, if the connection is lost before the answer
  // is finished; soon, if it already is. Replaces an earlier one.
  virtual void OnClosed(std::function<void(HttpLoss)> closed) = 0;

  virtual void Post(std::function<void()> function) = 0;
  virtual void PostAfter(absl::Duration delay, std::function<void()> function) = 0;
};

class HttpHandler {
 public:
  virtual ~HttpHandler() = default;
  // Called on the exchange's strand. May answer before it returns, or keep the exchange and answer
  // later.
  virtual void OnRequest(HttpRequest request, std::shared_ptr<HttpExchange> exchange) = 0;
  // The answer of a request that never became one: too large, malformed, too slow.
  virtual HttpResponse ProtocolError(int status, absl::string_view message) = 0;
};

struct HttpServerOptions {
  std::string listen = "127.0.0.1:0";  // HOST:PORT, [V6]:PORT
  std::string tls_certificate_file;
  std::string tls_key_file;
  bool loopback_only = false;  // refuse to listen where other machines can reach
  int io_threads = 2;
  size_t max_header_bytes = 32 << 10;
  size_t max_body_bytes = 16 << 20;
  size_t max_connections = 4096;
  size_t max_write_buffer_bytes = 1 << 20;
  absl::Duration header_timeout = absl::Seconds(10);
  absl::Duration body_timeout = absl::Seconds(60);
  absl::Duration idle_timeout = absl::Seconds(75);
  absl::Duration write_timeout = absl::Seconds(20);
};

class HttpServer {
 public:
  // Binds and listens; requests are answered once Start was called. Errors: InvalidArgument
  // (address, certificate), NotFound (certificate files), FailedPrecondition (not loopback),
  // AlreadyExists (port in use).
  static absl::StatusOr<std::unique_ptr<HttpServer>> Create(HttpServerOptions options);
  virtual ~HttpServer() = default;  // Stop(now)

  // Begins to accept and answer. `handler` outlives the server. Once.
  virtual void Start(HttpHandler& handler) = 0;

  // "http://HOST:PORT" or "https://HOST:PORT", the port resolved.
  virtual std::string address() const = 0;
  virtual int connections() const = 0;

  // Accepts nothing more, closes idle connections, lets exchanges under way finish until
  // `deadline`, then closes those too (their OnClosed runs) and joins the threads. Blocks. Not from
  // an exchange's strand.
  virtual void Stop(absl::Time deadline) = 0;
};

}  // namespace shoal
