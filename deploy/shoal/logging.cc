// SPDX-License-Identifier: Apache-2.0
#include "deploy/shoal/logging.h"

#include <grpc/support/log.h>

#include "spdlog/sinks/stdout_color_sinks.h"
#include "spdlog/spdlog.h"

namespace shoal {

void StartLogging(const std::string& level) {
  auto logger = spdlog::stderr_color_mt("shoal");
  logger->set_pattern("%H:%M:%S.%e [%P] %^%l%$ %v");
  logger->set_level(spdlog::level::from_str(level));
  spdlog::set_default_logger(std::move(logger));
  // What goes wrong in gRPC reaches us as statuses and is told in our words.
  gpr_set_log_function([](gpr_log_func_args* args) {
    spdlog::debug("grpc {}:{}: {}", args->file, args->line, args->message);
  });
}

}  // namespace shoal
