// SPDX-License-Identifier: Apache-2.0
// One client connection: reads requests with Beast's parser, hands them to the handler one at a
// time, writes answers. Everything runs on the connection's strand.
#pragma once

#include <array>
#include <boost/asio.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/time/time.h"
#include "coordinator/api/http_connection_set_internal.h"
#include "coordinator/api/http_server.h"

namespace shoal {

class HttpConnection : public std::enable_shared_from_this<HttpConnection> {
 public:
  using Socket = boost::asio::ip::tcp::socket;

  // `options`, `handler` and `set` outlive the connection. `tls` may be null. `socket`'s executor
  // is a strand.
  HttpConnection(Socket socket, boost::asio::ssl::context* tls, const HttpServerOptions& options,
                 HttpHandler& handler, HttpConnectionSet& set);
  ~HttpConnection();

  void Start();
  // Thread-safe: no further request is taken from this connection; closes it when idle.
  void Drain();
  // Thread-safe: closes it now.
  void Kill();

 private:
  class Exchange;
  enum class Phase {
    kHandshake,
    kIdle,        // nothing of the next request has come
    kHeader,      // part of its header has
    kBody,        // the header is complete
    kResponding,  // the request is with the handler, or its answer is being written
    kLingering,   // the last answer is out; what still comes is dropped
    kClosed
  };
  using ErrorCode = boost::system::error_code;
  using Parser = boost::beast::http::request_parser<boost::beast::http::string_body>;

  void Read();
  void OnRead(ErrorCode error, size_t bytes);
  void Process();  // parses what is buffered; dispatches a complete request
  void Dispatch();
  void FailRequest(int status, const std::string& message);  // answers and closes

  // Answer side, called by the exchange under way.
  void WriteHead(const HttpResponse& head, std::optional<size_t> content_length);
  void Queue(absl::string_view bytes);
  void QueuePiece(absl::string_view piece);  // of a streamed answer
  void DropQueued();                         // pieces that are not being written yet
  void FinishAnswer();
  void Flush();
  void WriteSome();
  void OnWritten(ErrorCode error, size_t bytes);
  void AnswerSent();

  void ArmReadDeadline(absl::Duration timeout);
  void OnReadDeadline();
  void ArmWriteDeadline();
  void AwaitReset();
  void CloseGracefully();
  void Close(HttpLoss why = HttpLoss::kClientGone);

  const HttpServerOptions& options_;
  HttpHandler& handler_;
  HttpConnectionSet& set_;
  Socket socket_;
  std::optional<boost::asio::ssl::stream<Socket&>> tls_;
  boost::asio::steady_timer read_timer_;
  boost::asio::steady_timer write_timer_;
  std::string peer_;

  Phase phase_ = Phase::kHandshake;
  bool draining_ = false;
  // A pending read's own: what is buffered for parsing moves as it is consumed.
  std::array<char, 16 << 10> read_;
  boost::beast::flat_buffer input_;
  bool reading_ = false;
  bool end_of_input_ = false;  // the client closed, or only its sending half
  size_t lingered_ = 0;        // bytes dropped since the last answer
  std::optional<Parser> parser_;

  std::shared_ptr<Exchange>
      exchange_;  // under way; owns this connection in turn until its answer is finished
  bool head_request_ = false;  // HEAD: the answer goes without its body
  bool http_1_0_ = false;
  bool keep_alive_ = false;
  bool chunked_ = false;
  bool head_out_ = false;  // of the answer
  bool answer_finished_ = false;
  std::string writing_;  // bytes being written
  size_t written_ = 0;
  std::string queued_;      // bytes to write next
  size_t queued_head_ = 0;  // of those, the answer's head and what is before it
};

}  // namespace shoal
