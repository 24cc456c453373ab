// SPDX-License-Identifier: Apache-2.0
// The listener and its threads; the work of a connection is in http_connection.cc.
#include "coordinator/api/http_server.h"

#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <boost/asio.hpp>
#include <boost/asio/ssl.hpp>
#include <filesystem>
#include <optional>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "coordinator/api/http_connection_internal.h"
#include "engine/base/status_macros.h"
#include "engine/base/steady_clock.h"

namespace shoal {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using ErrorCode = boost::system::error_code;

// When the process has no file descriptor left, accepting pauses; running requests will give some
// back.
constexpr std::chrono::milliseconds kAcceptPause{100};

struct ListenAddress {
  tcp::endpoint endpoint;
  std::string host;  // as written
};

absl::StatusOr<ListenAddress> ParseListen(const std::string& listen) {
  const size_t colon = listen.rfind(':');
  int port = -1;
  if (colon == std::string::npos || !absl::SimpleAtoi(listen.substr(colon + 1), &port) ||
      port < 0 || port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("listen address \"", listen, "\": want HOST:PORT with a port of 0..65535"));
  }
  ListenAddress address;
  address.host = listen.substr(0, colon);
  std::string name = address.host;
  if (name.size() >= 2 && name.front() == '[' && name.back() == ']') {
    name = name.substr(1, name.size() - 2);
  }
  ErrorCode error;
  asio::io_context context;
  const auto found =
      tcp::resolver(context).resolve(name.empty() ? "0.0.0.0" : name, absl::StrCat(port), error);
  if (error || found.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("listen address \"", listen, "\": no such host: ", error.message()));
  }
  address.endpoint = found.begin()->endpoint();
  return address;
}

absl::Status TlsError(const std::string& option, const std::string& file, const ErrorCode& error) {
  std::error_code ignored;
  if (!std::filesystem::exists(file, ignored)) {
    return absl::NotFoundError(absl::StrCat(option, " ", file, ": no such file"));
  }
  return absl::InvalidArgumentError(absl::StrCat(option, " ", file, ": ", error.message()));
}

absl::StatusOr<std::unique_ptr<asio::ssl::context>> MakeTls(const HttpServerOptions& options) {
  auto tls = std::make_unique<asio::ssl::context>(asio::ssl::context::tls_server);
  ErrorCode error;
  tls->set_options(asio::ssl::context::default_workarounds | asio::ssl::context::no_sslv2 |
                       asio::ssl::context::no_sslv3 | asio::ssl::context::no_tlsv1 |
                       asio::ssl::context::no_tlsv1_1 | SSL_OP_NO_RENEGOTIATION,
                   error);
  // An encrypted key must be an error, not a question on somebody's terminal.
  tls->set_password_callback([](size_t, asio::ssl::context::password_purpose) { return ""; },
                             error);
  tls->use_certificate_chain_file(options.tls_certificate_file, error);
  if (error) return TlsError("TLS certificate", options.tls_certificate_file, error);
  tls->use_private_key_file(options.tls_key_file, asio::ssl::context::pem, error);
  if (error) return TlsError("TLS key", options.tls_key_file, error);
  if (SSL_CTX_check_private_key(tls->native_handle()) != 1) {
    ERR_clear_error();
    return absl::InvalidArgumentError(absl::StrCat("TLS key ", options.tls_key_file,
                                                   " does not belong to the certificate ",
                                                   options.tls_certificate_file));
  }
  return tls;
}

class Server : public HttpServer {
 public:
  Server(HttpServerOptions options, std::string host, std::unique_ptr<asio::ssl::context> tls)
      : options_(std::move(options)),
        host_(std::move(host)),
        tls_(std::move(tls)),
        work_(asio::make_work_guard(context_)),
        strand_(asio::make_strand(context_)),
        acceptor_(strand_),
        pause_(strand_) {}

  ~Server() override { Stop(SteadyNow()); }

  absl::Status Listen(const tcp::endpoint& endpoint) {
    ErrorCode error;
    acceptor_.open(endpoint.protocol(), error);
    if (!error) acceptor_.set_option(tcp::acceptor::reuse_address(true), error);
    if (!error) acceptor_.bind(endpoint, error);
    if (!error) acceptor_.listen(asio::socket_base::max_listen_connections, error);
    if (error == asio::error::address_in_use) {
      return absl::AlreadyExistsError(
          absl::StrCat("cannot listen on ", options_.listen, ": the port is in use"));
    }
    if (error) {
      return absl::InvalidArgumentError(
          absl::StrCat("cannot listen on ", options_.listen, ": ", error.message()));
    }
    // Worker processes are started by fork and exec; they must not hold our clients' connections
    // open.
    fcntl(acceptor_.native_handle(), F_SETFD, FD_CLOEXEC);
    port_ = acceptor_.local_endpoint(error).port();
    return absl::OkStatus();
  }

  void Start(HttpHandler& handler) override {
    handler_ = &handler;
    asio::post(strand_, [this] { Accept(); });
    for (int i = 0; i < std::max(1, options_.io_threads); ++i) {
      running_.fetch_add(1);
      threads_.emplace_back([this, i] {
        pthread_setname_np(pthread_self(), absl::StrCat("http-", i).c_str());
        Serve();
        running_.fetch_sub(1);
      });
    }
  }

  std::string address() const override {
    return absl::StrCat(tls_ ? "https://" : "http://", host_, ":", port_);
  }

  int connections() const override { return static_cast<int>(set_.size()); }

  void Stop(absl::Time deadline) override {
    absl::MutexLock lock(&stop_mutex_);
    if (stopped_) return;
    stopped_ = true;
    set_.Close();
    asio::post(strand_, [this] {
      ErrorCode ignored;
      acceptor_.close(ignored);
      pause_.cancel();
    });
    if (!threads_.empty()) {
      for (const auto& connection : set_.All()) connection->Drain();
      if (!set_.WaitEmpty(deadline)) {
        for (const auto& connection : set_.All()) connection->Kill();
      }
    }
    // Let what was posted run out (the OnClosed calls); not for long, a retry timer may be left.
    work_.reset();
    const absl::Time patience = SteadyNow() + absl::Milliseconds(500);
    while (running_.load() > 0 && SteadyNow() < patience) absl::SleepFor(absl::Milliseconds(1));
    context_.stop();
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }

 private:
  // What a connection's own work throws (out of memory) ends that connection: nothing owns it any
  // more. The others go on.
  void Serve() {
    while (true) {
      try {
        context_.run();
        return;
      } catch (const std::exception&) {
        continue;
      }
    }
  }

  void Accept() {
    if (!acceptor_.is_open()) return;
    acceptor_.async_accept(asio::make_strand(context_),
                           [this](ErrorCode error, tcp::socket socket) {
                             if (error == asio::error::operation_aborted || !acceptor_.is_open())
                               return;
                             if (error) {
                               pause_.expires_after(kAcceptPause);
                               pause_.async_wait([this](ErrorCode) { Accept(); });
                               return;
                             }
                             Welcome(std::move(socket));
                             Accept();
                           });
  }

  void Welcome(tcp::socket socket) {
    fcntl(socket.native_handle(), F_SETFD, FD_CLOEXEC);
    auto connection =
        std::make_shared<HttpConnection>(std::move(socket), tls_.get(), options_, *handler_, set_);
    // A connection too many is closed as it goes out of scope.
    if (set_.Add(connection, options_.max_connections)) connection->Start();
  }

  const HttpServerOptions options_;
  const std::string host_;
  const std::unique_ptr<asio::ssl::context> tls_;
  HttpHandler* handler_ = nullptr;
  HttpConnectionSet set_;  // outlives the context, whose pending operations own connections
  asio::io_context context_;
  asio::executor_work_guard<asio::io_context::executor_type> work_;
  asio::strand<asio::io_context::executor_type> strand_;  // the acceptor's
  tcp::acceptor acceptor_;
  asio::steady_timer pause_;
  int port_ = 0;
  std::vector<std::thread> threads_;
  std::atomic<int> running_{0};
  absl::Mutex stop_mutex_;
  bool stopped_ ABSL_GUARDED_BY(stop_mutex_) = false;
};

}  // namespace

absl::string_view HttpRequest::Header(absl::string_view name) const {
  for (const auto& [key, value] : headers) {
    if (key == name) return value;
  }
  return {};
}

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Create(HttpServerOptions options) {
  SHOAL_ASSIGN_OR_RETURN(const ListenAddress address, ParseListen(options.listen));
  if (options.loopback_only && !address.endpoint.address().is_loopback()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "listening on ", options.listen,
        ", which other machines can reach, needs a TLS certificate, its key and an API key file, "
        "or --insecure"));
  }
  if (options.tls_certificate_file.empty() != options.tls_key_file.empty()) {
    return absl::InvalidArgumentError("TLS needs both a certificate file and a key file");
  }
  std::unique_ptr<asio::ssl::context> tls;
  try {
    if (!options.tls_certificate_file.empty()) {
      SHOAL_ASSIGN_OR_RETURN(tls, MakeTls(options));
    }
    auto server = std::make_unique<Server>(std::move(options), address.host, std::move(tls));
    SHOAL_RETURN_IF_ERROR(server->Listen(address.endpoint));
    return server;
  } catch (
      const std::exception& e) {  // Asio's constructors throw when the system is out of something
    return absl::ResourceExhaustedError(absl::StrCat("HTTP server: ", e.what()));
  }
}

}  // namespace shoal
