// SPDX-License-Identifier: Apache-2.0
// What operators graph: counters and histograms of the API's own, and the cluster's snapshot, as
// Prometheus text. Everything has a shoal_ name; what vLLM's dashboards read is repeated under
// vLLM's names.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "coordinator/core/core.h"

namespace shoal {

// Thread-safe.
class ApiMetrics {
 public:
  explicit ApiMetrics(const std::string& served_model_name);
  ~ApiMetrics();
  ApiMetrics(const ApiMetrics&) = delete;
  ApiMetrics& operator=(const ApiMetrics&) = delete;

  // `endpoint` is one of the served paths, or "other".
  void HttpAnswered(absl::string_view endpoint, int status);
  // `queued`: until the first chunk was planned; `prefill`: from there to the first token.
  void FirstToken(absl::Duration since_arrival, absl::Duration queued);
  // `tokens` came together, `since_last` after the ones before them.
  void MoreTokens(absl::Duration since_last, int64_t tokens);
  // `decode`: from the first token to the last. `finish`: "stop", "length", "cancelled", "error".
  void RequestFinished(absl::string_view finish, absl::Duration since_arrival,
                       absl::Duration decode);

  // The whole page (text format 0.0.4).
  std::string Render(const ClusterSnapshot& snapshot, int http_connections) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace shoal
