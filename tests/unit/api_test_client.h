// SPDX-License-Identifier: Apache-2.0
// A blocking socket for tests of the HTTP face: sends any bytes, well-formed or not, and reads with
// a deadline.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace shoal::testing {

class TestClient {
 public:
  // `address` is "http://127.0.0.1:PORT". `receive_buffer` > 0 shrinks the socket's, so that a slow
  // reader is one soon.
  explicit TestClient(const std::string& address, int receive_buffer = 0) {
    int port = 0;
    if (!absl::SimpleAtoi(address.substr(address.rfind(':') + 1), &port)) std::abort();
    fd_ = socket(AF_INET, SOCK_STREAM, 0);
    if (receive_buffer > 0) {
      setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof(receive_buffer));
    }
    sockaddr_in to = {};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<uint16_t>(port));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(fd_, reinterpret_cast<sockaddr*>(&to), sizeof(to)) != 0) Close();
  }
  ~TestClient() { Close(); }
  TestClient(const TestClient&) = delete;
  TestClient& operator=(const TestClient&) = delete;

  void Close() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }
  void HalfClose() { shutdown(fd_, SHUT_WR); }

  // False when the peer has closed.
  bool Send(absl::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(sent));
    }
    return true;
  }

  // Everything up to and including `until`, or up to the end of the connection, or until the
  // deadline; the rest stays for the next call.
  std::string ReadUntil(absl::string_view until, absl::Duration timeout = absl::Seconds(10)) {
    const absl::Time deadline = absl::Now() + timeout;
    while (true) {
      const size_t at =
          until.empty() ? std::string::npos : buffer_.find(until.data(), 0, until.size());
      if (at != std::string::npos) {
        std::string head = buffer_.substr(0, at + until.size());
        buffer_.erase(0, head.size());
        return head;
      }
      pollfd wait = {fd_, POLLIN, 0};
      const int64_t left = absl::ToInt64Milliseconds(deadline - absl::Now());
      char bytes[4096];
      ssize_t got = 0;
      if (left > 0 && poll(&wait, 1, static_cast<int>(left)) > 0) {
        got = recv(fd_, bytes, sizeof(bytes), 0);
        closed_ = got <= 0;
      }
      if (got <= 0) return std::exchange(buffer_, "");
      buffer_.append(bytes, static_cast<size_t>(got));
    }
  }

  // All there is until the peer closes; closed() tells whether it did in time.
  std::string ReadAll(absl::Duration timeout = absl::Seconds(10)) { return ReadUntil("", timeout); }
  bool closed() const { return closed_; }

  // One whole answer with Content-Length: its header, and its body in `body`.
  std::string ReadAnswer(std::string* body = nullptr) {
    const std::string header = ReadUntil("\r\n\r\n");
    const size_t at = header.find("Content-Length: ");
    size_t length = 0;
    if (at != std::string::npos) length = std::strtoul(header.c_str() + at + 16, nullptr, 10);
    const absl::Time deadline = absl::Now() + absl::Seconds(10);
    std::string content = std::exchange(buffer_, "");
    while (content.size() < length && absl::Now() < deadline) {
      char bytes[4096];
      const ssize_t got = recv(fd_, bytes, sizeof(bytes), 0);
      if (got <= 0) break;
      content.append(bytes, static_cast<size_t>(got));
    }
    if (content.size() > length) {
      buffer_ = content.substr(length);
      content.resize(length);
    }
    if (body != nullptr) *body = content;
    return header;
  }

 private:
  int fd_ = -1;
  bool closed_ = false;
  std::string buffer_;
};

}  // namespace shoal::testing
