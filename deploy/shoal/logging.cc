// SPDX-License-Identifier: Apache-2.0
#include "deploy/shoal/logging.h"

#include <grpc/support/log.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "spdlog/sinks/base_sink.h"
#include "spdlog/spdlog.h"

namespace shoal {
namespace {

// Writes to stderr what it takes at once. When that is a pipe which nobody reads, lines are dropped
// and counted: a full pipe must not stop the threads that serve.
class PatientStderr : public spdlog::sinks::base_sink<std::mutex> {
 protected:
  void sink_it_(const spdlog::details::log_msg& message) override {
    spdlog::memory_buf_t line;
    formatter_->format(message, line);
    if (dropped_ > 0) {
      const std::string note = absl::StrCat("(", dropped_, " lines of log were dropped)\n");
      if (!Write(note.data(), note.size())) {
        ++dropped_;
        return;
      }
      dropped_ = 0;
    }
    if (!Write(line.data(), line.size())) ++dropped_;
  }
  void flush_() override {}

 private:
  // Whether all of it went out. Long lines go in pieces that a pipe reported as writable takes.
  static bool Write(const char* data, size_t size) {
    constexpr size_t kPiece = 4096;  // PIPE_BUF
    while (size > 0) {
      pollfd ready = {STDERR_FILENO, POLLOUT, 0};
      if (poll(&ready, 1, 0) <= 0 || ready.revents != POLLOUT) return false;
      const ssize_t written = write(STDERR_FILENO, data, std::min(size, kPiece));
      if (written <= 0) return false;
      data += written;
      size -= static_cast<size_t>(written);
    }
    return true;
  }

  int64_t dropped_ = 0;
};

}  // namespace

void StartLogging(const std::string& level) {
  auto logger = std::make_shared<spdlog::logger>("shoal", std::make_shared<PatientStderr>());
  logger->set_pattern("%H:%M:%S.%e [%P] %l %v");
  logger->set_level(spdlog::level::from_str(level));
  spdlog::set_default_logger(std::move(logger));
  // What goes wrong in gRPC reaches us as statuses and is told in our words.
  gpr_set_log_function([](gpr_log_func_args* args) {
    spdlog::debug("grpc {}:{}: {}", args->file, args->line, args->message);
  });
}

}  // namespace shoal
