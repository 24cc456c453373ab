// SPDX-License-Identifier: Apache-2.0
// See metrics.h.
#include "coordinator/api/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "coordinator/api/cluster_metrics_internal.h"

namespace shoal {
namespace {

using prometheus::ClientMetric;
using prometheus::Histogram;
using prometheus::MetricFamily;

// Seconds. A token of a small model takes a millisecond, a long prompt on a large one minutes.
const Histogram::BucketBoundaries kLatencyBuckets = {
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600};

// vLLM's names for what we call otherwise. Its counters carry "_total" on the wire; the two without
// are how its documentation spells them.
const std::multimap<std::string, std::string>& Aliases() {
  static const std::multimap<std::string, std::string> kAliases = {
      {"shoal_requests_running", "vllm:num_requests_running"},
      {"shoal_requests_waiting", "vllm:num_requests_waiting"},
      {"shoal_cache_usage_ratio", "vllm:kv_cache_usage_perc"},
      {"shoal_prefix_cache_queries_total", "vllm:prefix_cache_queries"},
      {"shoal_prefix_cache_queries_total", "vllm:prefix_cache_queries_total"},
      {"shoal_prefix_cache_hits_total", "vllm:prefix_cache_hits"},
      {"shoal_prefix_cache_hits_total", "vllm:prefix_cache_hits_total"},
      {"shoal_preemptions_total", "vllm:num_preemptions_total"},
      {"shoal_prompt_tokens_total", "vllm:prompt_tokens_total"},
      {"shoal_generation_tokens_total", "vllm:generation_tokens_total"},
      {"shoal_time_to_first_token_seconds", "vllm:time_to_first_token_seconds"},
      {"shoal_inter_token_latency_seconds", "vllm:inter_token_latency_seconds"},
      {"shoal_e2e_request_latency_seconds", "vllm:e2e_request_latency_seconds"},
      {"shoal_request_queue_time_seconds", "vllm:request_queue_time_seconds"},
      {"shoal_request_prefill_time_seconds", "vllm:request_prefill_time_seconds"},
      {"shoal_request_decode_time_seconds", "vllm:request_decode_time_seconds"},
      {"shoal_cache_block_lifetime_seconds", "vllm:kv_block_lifetime_seconds"},
  };
  return kAliases;
}

}  // namespace

struct ApiMetrics::Impl {
  explicit Impl(const std::string& model)
      : labels{{"model_name", model}},
        http_answers(prometheus::BuildCounter()
                         .Name("shoal_http_requests_total")
                         .Help("Requests answered, by path and status")
                         .Register(registry)),
        finished(prometheus::BuildCounter()
                     .Name("shoal_requests_finished_total")
                     .Help("Requests finished, by reason")
                     .Labels(labels)
                     .Register(registry)),
        first_token(Latency("time_to_first_token", "From arrival to the first token")),
        inter_token(Latency("inter_token_latency", "Between two tokens of a choice")),
        e2e(Latency("e2e_request_latency", "From arrival to the last token")),
        queue(Latency("request_queue_time", "From arrival to the first planned chunk")),
        prefill(Latency("request_prefill_time", "From the first chunk to the first token")),
        decode(Latency("request_decode_time", "From the first token to the last")) {}

  Histogram& Latency(const std::string& name, const std::string& help) {
    return prometheus::BuildHistogram()
        .Name(absl::StrCat("shoal_", name, "_seconds"))
        .Help(help)
        .Labels(labels)
        .Register(registry)
        .Add({}, kLatencyBuckets);
  }

  prometheus::Registry registry;
  const std::map<std::string, std::string> labels;
  prometheus::Family<prometheus::Counter>& http_answers;
  prometheus::Family<prometheus::Counter>& finished;
  Histogram& first_token;
  Histogram& inter_token;
  Histogram& e2e;
  Histogram& queue;
  Histogram& prefill;
  Histogram& decode;
};

ApiMetrics::ApiMetrics(const std::string& served_model_name)
    : impl_(std::make_unique<Impl>(served_model_name)) {}

ApiMetrics::~ApiMetrics() = default;

void ApiMetrics::HttpAnswered(absl::string_view endpoint, int status) {
  impl_->http_answers.Add({{"path", std::string(endpoint)}, {"status", absl::StrCat(status)}})
      .Increment();
}

void ApiMetrics::FirstToken(absl::Duration since_arrival, absl::Duration queued) {
  impl_->first_token.Observe(absl::ToDoubleSeconds(since_arrival));
  impl_->queue.Observe(absl::ToDoubleSeconds(queued));
  impl_->prefill.Observe(absl::ToDoubleSeconds(since_arrival - queued));
}

void ApiMetrics::MoreTokens(absl::Duration since_last, int64_t tokens) {
  for (int64_t i = 0; i < tokens; ++i) {
    impl_->inter_token.Observe(absl::ToDoubleSeconds(since_last / tokens));
  }
}

void ApiMetrics::RequestFinished(absl::string_view finish, absl::Duration since_arrival,
                                 absl::Duration decode) {
  impl_->finished.Add({{"finished_reason", std::string(finish)}}).Increment();
  impl_->e2e.Observe(absl::ToDoubleSeconds(since_arrival));
  impl_->decode.Observe(absl::ToDoubleSeconds(decode));
}

std::string ApiMetrics::Render(const ClusterSnapshot& snapshot, int http_connections) const {
  std::vector<ClientMetric::Label> labels;
  for (const auto& [name, value] : impl_->labels) labels.push_back({name, value});
  std::vector<MetricFamily> families = ClusterFamilies(snapshot, http_connections, labels);
  for (MetricFamily& family : impl_->registry.Collect()) families.push_back(std::move(family));
  std::vector<MetricFamily> aliases;
  for (const MetricFamily& family : families) {
    const auto [begin, end] = Aliases().equal_range(family.name);
    for (auto alias = begin; alias != end; ++alias) {
      aliases.push_back(family);
      aliases.back().name = alias->second;
    }
  }
  families.insert(families.end(), aliases.begin(), aliases.end());
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace shoal
