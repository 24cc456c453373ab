// SPDX-License-Identifier: Apache-2.0
#include "deploy/shoal/http_get.h"

#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/ssl.hpp>
#include <chrono>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "deploy/shoal/config.h"
#include "engine/base/status_macros.h"

namespace shoal {
namespace {

namespace beast = boost::beast;
namespace http = boost::beast::http;
namespace asio = boost::asio;
using boost::system::error_code;

struct Url {
  bool tls = false;
  std::string host;
  int port = 0;
  std::string path = "/";
};

absl::StatusOr<Url> ParseUrl(absl::string_view text) {
  Url url;
  absl::string_view rest = text;
  if (absl::ConsumePrefix(&rest, "https://")) {
    url.tls = true;
  } else if (!absl::ConsumePrefix(&rest, "http://")) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", text, "' is no URL: want http://HOST:PORT"));
  }
  const size_t slash = rest.find('/');
  if (slash != absl::string_view::npos) {
    url.path = std::string(rest.substr(slash));
    rest = rest.substr(0, slash);
  }
  SHOAL_ASSIGN_OR_RETURN(const HostPort where, ParseHostPort(rest));
  url.host = where.host;
  url.port = where.port;
  return url;
}

// One request, as asynchronous steps, so that one deadline covers all of them.
class Getter {
 public:
  Getter(const Url& url, const HttpGetOptions& options)
      : url_(url), options_(options), ssl_(asio::ssl::context::tls_client), resolver_(context_) {}

  absl::StatusOr<std::string> Run() {
    if (url_.tls) {
      error_code error;
      ssl_.set_default_verify_paths(error);
      if (!options_.ca_file.empty()) ssl_.load_verify_file(options_.ca_file, error);
      if (error) return absl::NotFoundError(absl::StrCat(options_.ca_file, ": ", error.message()));
      ssl_.set_verify_mode(asio::ssl::verify_peer);
      secure_.emplace(context_, ssl_);
      secure_->set_verify_callback(asio::ssl::host_name_verification(url_.host));
      SSL_set_tlsext_host_name(secure_->native_handle(), url_.host.c_str());
    } else {
      plain_.emplace(context_);
    }
    request_.method(http::verb::get);
    request_.target(url_.path);
    request_.version(11);
    request_.set(http::field::host, absl::StrCat(url_.host, ":", url_.port));
    request_.set(http::field::connection, "close");
    if (!options_.api_key.empty())
      request_.set(http::field::authorization, "Bearer " + options_.api_key);
    response_.body_limit(64 << 20);
    resolver_.async_resolve(url_.host, std::to_string(url_.port),
                            [this](error_code error, auto found) {
                              if (!Check(error)) return;
                              Tcp().async_connect(found, [this](error_code connected, const auto&) {
                                if (Check(connected)) url_.tls ? Handshake() : Exchange(*plain_);
                              });
                            });
    context_.run_for(absl::ToChronoNanoseconds(options_.timeout));
    const std::string where = absl::StrCat(url_.host, ":", url_.port);
    if (error_) {
      return absl::UnavailableError(absl::StrCat(where, ": ", error_.message(), Hint()));
    }
    if (!done_) {
      return absl::DeadlineExceededError(
          absl::StrCat(where, ": no answer within ", absl::FormatDuration(options_.timeout)));
    }
    const int status = response_.get().result_int();
    if (status == 200) return std::move(response_.get().body());
    const std::string what = absl::StrCat(where, " answers ", status, ": ", response_.get().body());
    return status == 401 || status == 403 ? absl::PermissionDeniedError(what)
                                          : absl::InternalError(what);
  }

 private:
  beast::tcp_stream& Tcp() { return url_.tls ? beast::get_lowest_layer(*secure_) : *plain_; }
  bool Check(error_code error) {
    if (error && !error_) error_ = error;
    return !error;
  }
  // What a person is likely to have meant instead.
  std::string Hint() {
    if (!url_.tls && (error_ == http::error::end_of_stream || error_ == http::error::bad_version ||
                      error_ == asio::error::connection_reset)) {
      return absl::StrCat("; if it speaks TLS, ask for https://", url_.host, ":", url_.port);
    }
    if (!url_.tls) return "";
    const long verified = SSL_get_verify_result(secure_->native_handle());
    if (verified == X509_V_OK) return "";
    return absl::StrCat(" (", X509_verify_cert_error_string(verified),
                        "); --ca FILE names an authority to trust");
  }
  void Handshake() {
    secure_->async_handshake(asio::ssl::stream_base::client, [this](error_code error) {
      if (Check(error)) Exchange(*secure_);
    });
  }
  template <typename Stream>
  void Exchange(Stream& stream) {
    http::async_write(stream, request_, [this, &stream](error_code error, size_t) {
      if (!Check(error)) return;
      http::async_read(stream, buffer_, response_,
                       [this](error_code read, size_t) { done_ = Check(read); });
    });
  }

  const Url& url_;
  const HttpGetOptions& options_;
  asio::io_context context_;
  asio::ssl::context ssl_;
  asio::ip::tcp::resolver resolver_;
  std::optional<beast::tcp_stream> plain_;
  std::optional<beast::ssl_stream<beast::tcp_stream>> secure_;
  http::request<http::empty_body> request_;
  http::response_parser<http::string_body> response_;
  beast::flat_buffer buffer_;
  error_code error_;
  bool done_ = false;
};

}  // namespace

absl::StatusOr<std::string> HttpGet(const HttpGetOptions& options) {
  SHOAL_ASSIGN_OR_RETURN(const Url url, ParseUrl(options.url));
  return Getter(url, options).Run();
}

}  // namespace shoal
