// SPDX-License-Identifier: Apache-2.0
// See metrics.h.
#include "coordinator/api/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <limits>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace shoal {
namespace {

using prometheus::ClientMetric;
using prometheus::Histogram;
using prometheus::MetricFamily;
using prometheus::MetricType;

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

// Families made of numbers that the cluster keeps.
class SnapshotFamilies {
 public:
  explicit SnapshotFamilies(std::vector<ClientMetric::Label> labels) : labels_(std::move(labels)) {}

  // `rank` below 0: of the whole cluster.
  void Add(const std::string& name, const std::string& help, MetricType type, double value,
           int rank = -1) {
    if (families_.empty() || families_.back().name != name) {
      families_.push_back({name, help, type, {}});
    }
    ClientMetric metric;
    metric.label = labels_;
    if (rank >= 0) metric.label.push_back({"rank", absl::StrCat(rank)});
    if (type == MetricType::Counter) {
      metric.counter.value = value;
    } else {
      metric.gauge.value = value;
    }
    families_.back().metric.push_back(std::move(metric));
  }

  void Add(const std::string& name, const std::string& help, const BlockLifetimes& lifetimes) {
    ClientMetric metric;
    metric.label = labels_;
    uint64_t count = 0;
    for (size_t i = 0; i < lifetimes.counts.size(); ++i) {
      count += static_cast<uint64_t>(lifetimes.counts[i]);
      const double bound = i < BlockLifetimes::kBounds.size()
                               ? BlockLifetimes::kBounds[i]
                               : std::numeric_limits<double>::infinity();
      metric.histogram.bucket.push_back({count, bound});
    }
    metric.histogram.sample_count = count;
    metric.histogram.sample_sum = lifetimes.sum_s;
    families_.push_back({name, help, MetricType::Histogram, {std::move(metric)}});
  }

  std::vector<MetricFamily> Take() { return std::move(families_); }

 private:
  std::vector<ClientMetric::Label> labels_;
  std::vector<MetricFamily> families_;
};

std::vector<MetricFamily> ClusterFamilies(const ClusterSnapshot& snapshot, int http_connections,
                                          std::vector<ClientMetric::Label> labels) {
  constexpr MetricType kGauge = MetricType::Gauge;
  constexpr MetricType kCounter = MetricType::Counter;
  SnapshotFamilies families(std::move(labels));
  int64_t used = 0;
  int64_t total = 0;
  for (const WorkerSnapshot& worker : snapshot.workers) {
    used += worker.blocks_used;
    total += worker.blocks_total;
  }
  families.Add("shoal_serving", "1 when all ranks are ready", kGauge, snapshot.serving);
  families.Add("shoal_epoch", "Membership and placement in force", kGauge,
               static_cast<double>(snapshot.epoch.value()));
  families.Add("shoal_http_connections", "Open client connections", kGauge, http_connections);
  families.Add("shoal_requests_running", "Sequences in a rank's batch", kGauge,
               static_cast<double>(snapshot.requests_running));
  families.Add("shoal_requests_waiting", "Sequences waiting for a place", kGauge,
               static_cast<double>(snapshot.requests_waiting));
  families.Add("shoal_cache_usage_ratio", "Cache blocks in use, of all (0 to 1)", kGauge,
               total > 0 ? static_cast<double>(used) / static_cast<double>(total) : 0);
  families.Add("shoal_prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache",
               kCounter, static_cast<double>(snapshot.prefix_cache_queries));
  families.Add("shoal_prefix_cache_hits_total", "Prompt tokens found in the prefix cache", kCounter,
               static_cast<double>(snapshot.prefix_cache_hits));
  families.Add("shoal_preemptions_total", "Sequences that gave up their blocks", kCounter,
               static_cast<double>(snapshot.preemptions));
  families.Add("shoal_prompt_tokens_total", "Prompt tokens of requests", kCounter,
               static_cast<double>(snapshot.prompt_tokens));
  families.Add("shoal_generation_tokens_total", "Tokens generated", kCounter,
               static_cast<double>(snapshot.generation_tokens));
  families.Add("shoal_cache_block_lifetime_seconds",
               "From a cache block's allocation until what it holds is given up",
               snapshot.block_lifetimes);
  families.Add("shoal_steps_total", "Steps of the expert-parallel unit", kCounter,
               static_cast<double>(snapshot.steps));
  for (const WorkerSnapshot& worker : snapshot.workers) {
    families.Add("shoal_worker_blocks_used", "Cache blocks in use on a rank", kGauge,
                 static_cast<double>(worker.blocks_used), worker.rank.value());
  }
  for (const WorkerSnapshot& worker : snapshot.workers) {
    families.Add("shoal_worker_blocks_total", "Cache blocks of a rank", kGauge,
                 static_cast<double>(worker.blocks_total), worker.rank.value());
  }
  for (const WorkerSnapshot& worker : snapshot.workers) {
    families.Add("shoal_worker_running_sequences", "Sequences in a rank's batch", kGauge,
                 worker.running_sequences, worker.rank.value());
  }
  for (const WorkerSnapshot& worker : snapshot.workers) {
    families.Add("shoal_worker_tokens_per_second", "Tokens a rank generates", kGauge,
                 worker.tokens_per_s, worker.rank.value());
  }
  return families.Take();
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
