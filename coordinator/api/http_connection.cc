// SPDX-License-Identifier: Apache-2.0
// See http_connection_internal.h. One read is always pending while there is room for its bytes, so
// that a client that goes away is noticed even while its answer is being made. End of input may
// mean that the client is gone, or that it has sent all it will and waits (nc -N): the next bytes
// to it tell, because a closed socket answers them with a reset. If none are due, an interim 100 is
// sent.
#include <sys/socket.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "coordinator/api/http_connection_internal.h"
#include "coordinator/api/http_exchange_internal.h"

namespace shoal {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;

// How much of further requests is read while one is being answered; enough to notice that the
// client went.
constexpr size_t kPipelineBytes = 64 << 10;
// After the last answer of a connection: how long, and how much, we listen to a client that is
// still sending. Closing at once would reset the connection and could destroy the answer on its
// way.
constexpr absl::Duration kLinger = absl::Seconds(2);
constexpr size_t kLingerBytes = 64 << 20;
// How long a client that ended its input waits for its answer before we ask whether it is there.
// Most answers are out by then, and need no interim one in front.
constexpr absl::Duration kProbeAfter = absl::Milliseconds(250);
constexpr absl::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";

std::chrono::nanoseconds ToChrono(absl::Duration duration) {
  return absl::ToChronoNanoseconds(std::min(duration, absl::Hours(24 * 365)));
}

// The path of a request's target, which may be in absolute form (RFC 9112 section 3.2.2).
absl::string_view PathOf(absl::string_view target) {
  target = target.substr(0, target.find('?'));
  for (const absl::string_view scheme : {"http://", "https://"}) {
    if (!absl::StartsWithIgnoreCase(target, scheme)) continue;
    const size_t slash = target.find('/', scheme.size());
    return slash == absl::string_view::npos ? "/" : target.substr(slash);
  }
  return target;
}

std::string HttpDate() {
  return absl::FormatTime("%a, %d %b %Y %H:%M:%S GMT", absl::Now(), absl::UTCTimeZone());
}

}  // namespace

HttpConnection::HttpConnection(Socket socket, asio::ssl::context* tls,
                               const HttpServerOptions& options, HttpHandler& handler,
                               HttpConnectionSet& set)
    : options_(options),
      handler_(handler),
      set_(set),
      socket_(std::move(socket)),
      read_timer_(socket_.get_executor()),
      write_timer_(socket_.get_executor()) {
  if (tls != nullptr) tls_.emplace(socket_, *tls);
  ErrorCode error;
  const auto remote = socket_.remote_endpoint(error);
  if (!error) peer_ = absl::StrCat(remote.address().to_string(), ":", remote.port());
}

HttpConnection::~HttpConnection() { set_.Remove(this); }

void HttpConnection::Start() {
  asio::dispatch(socket_.get_executor(), [self = shared_from_this()] {
    ErrorCode ignored;
    self->socket_.set_option(asio::ip::tcp::no_delay(true), ignored);
    self->ArmReadDeadline(self->options_.header_timeout);
    if (!self->tls_) {
      self->phase_ = Phase::kIdle;
      self->Read();
      return;
    }
    self->tls_->async_handshake(asio::ssl::stream_base::server, [self](ErrorCode error) {
      if (error || self->phase_ != Phase::kHandshake) return self->Close();
      self->phase_ = Phase::kIdle;
      self->Read();
    });
  });
}

void HttpConnection::Drain() {
  asio::post(socket_.get_executor(), [self = shared_from_this()] {
    self->draining_ = true;
    self->keep_alive_ = false;
    if (self->phase_ == Phase::kIdle || self->phase_ == Phase::kHandshake) self->Close();
  });
}

void HttpConnection::Kill() {
  asio::post(socket_.get_executor(),
             [self = shared_from_this()] { self->Close(HttpLoss::kStopped); });
}

// --- Reading
// ----------------------------------------------------------------------------------------------------------

void HttpConnection::Read() {
  if (reading_ || end_of_input_ || phase_ == Phase::kClosed) return;
  if (phase_ == Phase::kResponding && input_.size() >= kPipelineBytes) return;
  reading_ = true;
  const auto buffer = asio::buffer(read_);
  auto done = [self = shared_from_this()](ErrorCode error, size_t bytes) {
    self->OnRead(error, bytes);
  };
  if (tls_) {
    tls_->async_read_some(buffer, std::move(done));
  } else {
    socket_.async_read_some(buffer, std::move(done));
  }
}

void HttpConnection::OnRead(ErrorCode error, size_t bytes) {
  reading_ = false;
  if (phase_ == Phase::kClosed) return;
  if (error) {
    end_of_input_ = true;
    // Between two pipelined requests: AnswerSent is about to look at the next one.
    if (phase_ == Phase::kIdle && input_.size() > 0 && error == asio::error::eof) return;
    // A finished answer still goes out; who has only ended its input also gets an unfinished one.
    if (phase_ != Phase::kResponding) return Close();
    if (answer_finished_) return;
    if (error != asio::error::eof) return Close();
    return AwaitReset();
  }
  if (phase_ == Phase::kLingering) {
    lingered_ += bytes;
    if (lingered_ > kLingerBytes) return Close();
    return Read();
  }
  input_.commit(asio::buffer_copy(input_.prepare(bytes), asio::buffer(read_, bytes)));
  if (phase_ != Phase::kResponding) Process();
  Read();
}

void HttpConnection::Process() {
  if (input_.size() == 0) return;
  if (phase_ == Phase::kIdle) {
    // Empty lines before a request are left by sloppy clients (RFC 9112 section 2.2).
    auto data = input_.cdata();
    const auto* bytes = static_cast<const char*>(data.data());
    size_t blank = 0;
    while (blank < data.size() && (bytes[blank] == '\r' || bytes[blank] == '\n')) ++blank;
    input_.consume(blank);
    if (input_.size() == 0) return;
    parser_.emplace();
    parser_->eager(true);
    parser_->header_limit(static_cast<uint32_t>(options_.max_header_bytes));
    parser_->body_limit(options_.max_body_bytes);
    phase_ = Phase::kHeader;
    ArmReadDeadline(options_.header_timeout);
  }
  while (!parser_->is_done()) {
    if (input_.size() == 0) return;  // until more bytes come
    ErrorCode error;
    size_t used = 0;
    try {
      used = parser_->put(input_.cdata(), error);
    } catch (const std::exception& e) {
      return FailRequest(500, absl::StrCat("reading the request failed: ", e.what()));
    }
    input_.consume(used);
    if (error && error != http::error::need_more) {
      if (error == http::error::body_limit) {
        return FailRequest(413, absl::StrCat("the body is larger than the limit of ",
                                             options_.max_body_bytes, " bytes"));
      }
      if (error == http::error::header_limit) {
        return FailRequest(431, absl::StrCat("the header is larger than the limit of ",
                                             options_.max_header_bytes, " bytes"));
      }
      if (error == http::error::bad_version) {
        return FailRequest(505, "want HTTP/1.1 or HTTP/1.0");
      }
      return FailRequest(400, absl::StrCat("malformed HTTP: ", error.message()));
    }
    if (parser_->is_header_done() && phase_ == Phase::kHeader) {
      phase_ = Phase::kBody;
      ArmReadDeadline(options_.body_timeout);
      if (const size_t hosts = parser_->get().count(http::field::host);
          hosts != 1 && parser_->get().version() >= 11) {
        return FailRequest(400,
                           absl::StrCat("malformed HTTP: want one Host header, found ", hosts));
      }
      const auto expect = parser_->get()[http::field::expect];
      if (!parser_->is_done() &&
          absl::EqualsIgnoreCase(absl::string_view(expect.data(), expect.size()), "100-continue")) {
        Queue(kContinue);
        Flush();
      }
      continue;
    }
    if (error == http::error::need_more || used == 0) return;
  }
  Dispatch();
}

void HttpConnection::Dispatch() {
  read_timer_.cancel();
  phase_ = Phase::kResponding;
  HttpRequest request;
  auto message = parser_->release();
  parser_.reset();
  request.method = std::string(message.method_string());
  const absl::string_view target(message.target().data(), message.target().size());
  request.path = std::string(PathOf(target));
  for (const auto& field : message) {
    request.headers.emplace_back(absl::AsciiStrToLower(absl::string_view(
                                     field.name_string().data(), field.name_string().size())),
                                 std::string(field.value()));
  }
  request.body = std::move(message.body());
  request.peer = peer_;

  keep_alive_ = message.keep_alive() && !draining_;
  http_1_0_ = message.version() == 10;
  head_request_ = request.method == "HEAD";
  answer_finished_ = false;
  head_out_ = false;
  if (end_of_input_) ArmReadDeadline(kProbeAfter);
  exchange_ = std::make_shared<Exchange>(shared_from_this());
  const std::shared_ptr<Exchange> exchange = exchange_;
  exchange->Call([&] { handler_.OnRequest(std::move(request), exchange); });
}

void HttpConnection::FailRequest(int status, const std::string& message) {
  read_timer_.cancel();
  phase_ = Phase::kResponding;
  parser_.reset();
  keep_alive_ = false;
  http_1_0_ = false;
  head_request_ = false;
  answer_finished_ = false;
  head_out_ = false;
  exchange_ = std::make_shared<Exchange>(shared_from_this());
  std::shared_ptr<Exchange>(exchange_)->Respond(handler_.ProtocolError(status, message));
}

// --- Answering
// --------------------------------------------------------------------------------------------------------

void HttpConnection::WriteHead(const HttpResponse& head, std::optional<size_t> content_length) {
  if (draining_ || (end_of_input_ && input_.size() == 0)) keep_alive_ = false;
  head_out_ = true;
  chunked_ = !content_length && !http_1_0_;
  if (!content_length && http_1_0_) keep_alive_ = false;  // the end of the connection ends the body
  const auto reason = http::obsolete_reason(http::int_to_status(head.status));
  std::string text =
      absl::StrCat("HTTP/1.1 ", head.status, " ", absl::string_view(reason.data(), reason.size()),
                   "\r\nDate: ", HttpDate(), "\r\nServer: shoal\r\n");
  if (!head.content_type.empty())
    absl::StrAppend(&text, "Content-Type: ", head.content_type, "\r\n");
  for (const auto& [name, value] : head.headers) absl::StrAppend(&text, name, ": ", value, "\r\n");
  if (content_length) absl::StrAppend(&text, "Content-Length: ", *content_length, "\r\n");
  if (chunked_) text += "Transfer-Encoding: chunked\r\n";
  if (!keep_alive_) {
    text += "Connection: close\r\n";
  } else if (http_1_0_) {
    text += "Connection: keep-alive\r\n";
  }
  text += "\r\n";
  Queue(text);
  queued_head_ = queued_.size();
}

void HttpConnection::Queue(absl::string_view bytes) { queued_.append(bytes.data(), bytes.size()); }

void HttpConnection::QueuePiece(absl::string_view piece) {
  if (piece.empty() || head_request_) return;
  if (chunked_) Queue(absl::StrCat(absl::Hex(piece.size()), "\r\n"));
  Queue(piece);
  if (chunked_) Queue("\r\n");
}

void HttpConnection::DropQueued() { queued_.resize(queued_head_); }

void HttpConnection::FinishAnswer() {
  answer_finished_ = true;
  Flush();
}

void HttpConnection::Flush() {
  if (phase_ == Phase::kClosed || !writing_.empty()) return;  // OnWritten goes on
  if (queued_.empty()) {
    if (phase_ == Phase::kResponding && answer_finished_) AnswerSent();
    return;
  }
  writing_.swap(queued_);
  queued_head_ = 0;
  WriteSome();
}

void HttpConnection::WriteSome() {
  ArmWriteDeadline();
  const auto buffer = asio::buffer(writing_.data() + written_, writing_.size() - written_);
  auto done = [self = shared_from_this()](ErrorCode error, size_t bytes) {
    self->OnWritten(error, bytes);
  };
  if (tls_) {
    tls_->async_write_some(buffer, std::move(done));
  } else {
    socket_.async_write_some(buffer, std::move(done));
  }
}

void HttpConnection::OnWritten(ErrorCode error, size_t bytes) {
  if (phase_ == Phase::kClosed) return;
  if (error) return Close();
  written_ += bytes;
  if (written_ < writing_.size()) return WriteSome();
  write_timer_.cancel();
  writing_.clear();
  written_ = 0;
  Flush();
}

void HttpConnection::AnswerSent() {
  exchange_.reset();
  answer_finished_ = false;
  if (!keep_alive_ || draining_) return CloseGracefully();
  phase_ = Phase::kIdle;
  ArmReadDeadline(options_.idle_timeout);
  // By way of the executor: a client with thousands of pipelined requests must not deepen the
  // stack.
  asio::post(socket_.get_executor(), [self = shared_from_this()] {
    if (self->phase_ != Phase::kIdle) return;
    self->Process();
    if (self->end_of_input_ && self->phase_ != Phase::kResponding) return self->CloseGracefully();
    self->Read();
  });
}

// --- Deadlines and the end
// --------------------------------------------------------------------------------------------

void HttpConnection::ArmReadDeadline(absl::Duration timeout) {
  read_timer_.expires_after(ToChrono(timeout));
  read_timer_.async_wait([self = shared_from_this()](ErrorCode error) {
    // A timer that was re-armed after it had fired, but before this ran, expires in the future.
    if (error || self->read_timer_.expiry() > std::chrono::steady_clock::now()) return;
    self->OnReadDeadline();
  });
}

void HttpConnection::OnReadDeadline() {
  switch (phase_) {
    case Phase::kHeader:
      return FailRequest(408, absl::StrCat("the header did not arrive within ",
                                           absl::FormatDuration(options_.header_timeout)));
    case Phase::kBody:
      return FailRequest(408, absl::StrCat("the body did not arrive within ",
                                           absl::FormatDuration(options_.body_timeout)));
    case Phase::kResponding:  // only armed at the end of input
      if (head_out_ || http_1_0_)
        return;  // the answer's next bytes tell; 1.0 knows no interim ones
      Queue(kContinue);
      return Flush();
    default:
      return Close();
  }
}

void HttpConnection::ArmWriteDeadline() {
  write_timer_.expires_after(ToChrono(options_.write_timeout));
  write_timer_.async_wait([self = shared_from_this()](ErrorCode error) {
    if (error || self->write_timer_.expiry() > std::chrono::steady_clock::now()) return;
    if (!self->writing_.empty()) self->Close(HttpLoss::kSlowClient);
  });
}

void HttpConnection::AwaitReset() {
  ArmReadDeadline(kProbeAfter);
  socket_.async_wait(Socket::wait_error, [self = shared_from_this()](ErrorCode error) {
    if (!error) self->Close();
  });
}

void HttpConnection::CloseGracefully() {
  phase_ = Phase::kLingering;
  ArmReadDeadline(kLinger);
  input_.consume(input_.size());
  if (tls_) {
    // Says goodbye and waits for the client's; the deadline above cuts it short.
    tls_->async_shutdown([self = shared_from_this()](ErrorCode) { self->Close(); });
    return;
  }
  ErrorCode ignored;
  socket_.shutdown(Socket::shutdown_send, ignored);
  if (end_of_input_) return Close();  // both halves are: nothing to listen to
  Read();
}

void HttpConnection::Close(HttpLoss why) {
  if (phase_ == Phase::kClosed) return;
  phase_ = Phase::kClosed;
  read_timer_.cancel();
  write_timer_.cancel();
  ErrorCode ignored;
  socket_.close(ignored);
  set_.Remove(this);
  if (const std::shared_ptr<Exchange> exchange = std::move(exchange_)) exchange->Lose(why);
}

}  // namespace shoal
