// SPDX-License-Identifier: Apache-2.0
// A connection's HttpExchange: how the handler's answer gets to the client.
#pragma once

#include <boost/asio.hpp>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "coordinator/api/http_connection_internal.h"

namespace shoal {

// The handler's grip on the connection. Outlives it when the handler keeps it.
class HttpConnection::Exchange : public HttpExchange,
                                 public std::enable_shared_from_this<Exchange> {
 public:
  explicit Exchange(std::shared_ptr<HttpConnection> connection)
      : strand_(connection->socket_.get_executor()), connection_(std::move(connection)) {}

  void Respond(HttpResponse response) override {
    if (!connection_) return;
    connection_->WriteHead(response, response.body.size());
    if (!connection_->head_request_) connection_->Queue(response.body);
    Finish();
  }

  void StartStream(HttpResponse head) override {
    if (!connection_) return;
    streaming_ = true;
    connection_->WriteHead(head, std::nullopt);
    connection_->Flush();
  }

  bool Write(absl::string_view piece) override {
    if (!connection_) return true;
    // What waits already counts, not the piece: a long echo is no fault of the client's.
    const size_t unsent =
        connection_->writing_.size() - connection_->written_ + connection_->queued_.size();
    if (unsent > connection_->options_.max_write_buffer_bytes) return false;
    connection_->QueuePiece(piece);
    connection_->Flush();
    return true;
  }

  void Finish() override {
    if (!connection_) return;
    if (streaming_ && connection_->chunked_ && !connection_->head_request_) {
      connection_->Queue("0\r\n\r\n");
    }
    closed_ = nullptr;
    const std::shared_ptr<HttpConnection> connection = std::move(connection_);
    connection->FinishAnswer();
  }

  void Cut(absl::string_view last) override {
    if (!connection_) return;
    connection_->DropQueued();
    connection_->QueuePiece(last);
    connection_->keep_alive_ = false;
    Finish();
  }

  void Abort() override {
    if (connection_) connection_->Close(HttpLoss::kFailed);
  }

  void OnClosed(std::function<void(HttpLoss)> closed) override {
    if (lost_) {
      Post([closed = std::move(closed), why = *lost_] { closed(why); });
    } else if (connection_) {
      closed_ = std::move(closed);
    }
  }

  void Post(std::function<void()> function) override {
    boost::asio::post(strand_, [self = shared_from_this(), function = std::move(function)] {
      self->Call(function);
    });
  }

  void PostAfter(absl::Duration delay, std::function<void()> function) override {
    auto timer =
        std::make_shared<boost::asio::steady_timer>(strand_, absl::ToChronoNanoseconds(delay));
    timer->async_wait([self = shared_from_this(), timer,
                       function = std::move(function)](ErrorCode) { self->Call(function); });
  }

  // A third party's exception, out of memory included, costs this client its connection.
  void Call(const std::function<void()>& function) {
    try {
      function();
    } catch (const std::exception&) {
      Abort();
    }
  }

  // The connection is gone and the answer was not finished.
  void Lose(HttpLoss why) {
    lost_ = why;
    const std::shared_ptr<HttpConnection> connection = std::move(connection_);
    // Not from within the call that found out: the handler may be in the middle of a Write.
    if (closed_) OnClosed(std::exchange(closed_, nullptr));
  }

 private:
  boost::asio::any_io_executor strand_;
  std::shared_ptr<HttpConnection>
      connection_;  // null once the answer is finished or the client lost
  std::function<void(HttpLoss)> closed_;
  bool streaming_ = false;
  std::optional<HttpLoss> lost_;
};

}  // namespace shoal
