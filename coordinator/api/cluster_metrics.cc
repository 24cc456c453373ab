// SPDX-License-Identifier: Apache-2.0
// See cluster_metrics_internal.h.
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/api/cluster_metrics_internal.h"

namespace shoal {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;
using Labels = std::vector<ClientMetric::Label>;

// Two series for every pair of ranks: beyond this many ranks the matrix is in /cluster only.
constexpr size_t kMaxMatrixRanks = 16;

Labels OfRank(RankId rank) { return {{"rank", absl::StrCat(rank.value())}}; }

// Families made of numbers that the cluster keeps. Metrics of one family follow each other.
class SnapshotFamilies {
 public:
  explicit SnapshotFamilies(Labels labels) : labels_(std::move(labels)) {}

  void Gauge(const std::string& name, const std::string& help, double value, Labels more = {}) {
    Add(name, help, MetricType::Gauge, std::move(more)).gauge.value = value;
  }
  void Counter(const std::string& name, const std::string& help, int64_t value) {
    Add(name, help, MetricType::Counter, {}).counter.value = static_cast<double>(value);
  }
  // value(worker) for each worker.
  template <typename Value>
  void PerWorker(const ClusterSnapshot& snapshot, const std::string& name, const std::string& help,
                 Value value) {
    for (const WorkerSnapshot& worker : snapshot.workers) {
      Gauge(name, help, static_cast<double>(value(worker)), OfRank(worker.rank));
    }
  }

  void Histogram(const std::string& name, const std::string& help,
                 const BlockLifetimes& lifetimes) {
    ClientMetric::Histogram& histogram = Add(name, help, MetricType::Histogram, {}).histogram;
    for (size_t i = 0; i < lifetimes.counts.size(); ++i) {
      histogram.sample_count += static_cast<uint64_t>(lifetimes.counts[i]);
      const double bound = i < BlockLifetimes::kBounds.size()
                               ? BlockLifetimes::kBounds[i]
                               : std::numeric_limits<double>::infinity();
      histogram.bucket.push_back({histogram.sample_count, bound});
    }
    histogram.sample_sum = lifetimes.sum_s;
  }

  std::vector<MetricFamily> Take() { return std::move(families_); }

 private:
  ClientMetric& Add(const std::string& name, const std::string& help, MetricType type,
                    Labels more) {
    if (families_.empty() || families_.back().name != name) {
      families_.push_back({name, help, type, {}});
    }
    ClientMetric& metric = families_.back().metric.emplace_back();
    metric.label = labels_;
    metric.label.insert(metric.label.end(), more.begin(), more.end());
    return metric;
  }

  Labels labels_;
  std::vector<MetricFamily> families_;
};

void AddLoad(const ClusterSnapshot& snapshot, SnapshotFamilies& families) {
  int64_t used = 0;
  int64_t total = 0;
  for (const WorkerSnapshot& worker : snapshot.workers) {
    used += worker.blocks_used;
    total += worker.blocks_total;
  }
  families.Gauge("shoal_requests_running", "Sequences in a rank's batch",
                 static_cast<double>(snapshot.requests_running));
  families.Gauge("shoal_requests_waiting", "Sequences waiting for a place",
                 static_cast<double>(snapshot.requests_waiting));
  families.Gauge("shoal_cache_usage_ratio", "Cache blocks in use, of all (0 to 1)",
                 total > 0 ? static_cast<double>(used) / static_cast<double>(total) : 0);
  families.Counter("shoal_prefix_cache_queries_total",
                   "Prompt tokens looked up in the prefix cache", snapshot.prefix_cache_queries);
  families.Counter("shoal_prefix_cache_hits_total", "Prompt tokens found in the prefix cache",
                   snapshot.prefix_cache_hits);
  families.Counter("shoal_preemptions_total", "Sequences that gave up their blocks",
                   snapshot.preemptions);
  families.Counter("shoal_prompt_tokens_total", "Prompt tokens of requests",
                   snapshot.prompt_tokens);
  families.Counter("shoal_generation_tokens_total", "Tokens generated", snapshot.generation_tokens);
  families.Histogram("shoal_cache_block_lifetime_seconds",
                     "From a cache block's allocation until what it holds is given up",
                     snapshot.block_lifetimes);
  families.Counter("shoal_steps_total", "Steps of the expert-parallel unit", snapshot.steps);
  families.PerWorker(snapshot, "shoal_worker_blocks_used", "Cache blocks in use on a rank",
                     [](const WorkerSnapshot& worker) { return worker.blocks_used; });
  families.PerWorker(snapshot, "shoal_worker_blocks_total", "Cache blocks of a rank",
                     [](const WorkerSnapshot& worker) { return worker.blocks_total; });
  families.PerWorker(snapshot, "shoal_worker_running_sequences", "Sequences in a rank's batch",
                     [](const WorkerSnapshot& worker) { return worker.running_sequences; });
  families.PerWorker(snapshot, "shoal_worker_tokens_per_second", "Tokens a rank generates",
                     [](const WorkerSnapshot& worker) { return worker.tokens_per_s; });
}

void AddSafety(const ClusterSnapshot& snapshot, SnapshotFamilies& families) {
  families.Gauge("shoal_paused", "1 while an expert has no live holder", !snapshot.paused.empty());
  families.Gauge("shoal_expert_holders_least", "Live holders of the expert that has the fewest",
                 snapshot.least_holders);
  families.Gauge("shoal_expert_holders_most", "Live holders of the expert that has the most",
                 snapshot.most_holders);
  families.Gauge("shoal_expert_hosts_least",
                 "Hosts of the live holders of the expert that has them on the fewest",
                 snapshot.least_hosts);
  families.PerWorker(snapshot, "shoal_worker_serving", "1 if the rank is in the present epoch",
                     [](const WorkerSnapshot& worker) {
                       return worker.state == "serving" || worker.state == "draining";
                     });
  families.PerWorker(snapshot, "shoal_worker_death_sequences",
                     "Sequences that the rank's death would move to others",
                     [](const WorkerSnapshot& worker) { return worker.death.sequences; });
  families.PerWorker(snapshot, "shoal_worker_death_tokens",
                     "Tokens that would at most be computed again for it",
                     [](const WorkerSnapshot& worker) { return worker.death.tokens; });
  families.PerWorker(snapshot, "shoal_worker_death_pauses",
                     "1 if requests would have to wait for a worker to load",
                     [](const WorkerSnapshot& worker) { return worker.death.pauses; });
  std::map<std::string, const Recovery*>
      last;  // by cause: an entry must not hide the loss before it
  for (const Recovery& recovery : snapshot.recoveries) last[CauseName(recovery.cause)] = &recovery;
  for (const auto& [cause, recovery] : last) {
    const auto phase = [&, &cause = cause, &recovery = *recovery](const char* name,
                                                                  absl::Time end) {
      if (end == absl::InfiniteFuture()) return;
      families.Gauge("shoal_last_recovery_seconds",
                     "From the suspicion to the end of each phase of the last change of the epoch",
                     absl::ToDoubleSeconds(end - recovery.suspected),
                     {{"cause", cause}, {"phase", name}});
    };
    phase("decided", recovery->decided);
    phase("fenced", recovery->fenced);
    phase("resumed", recovery->resumed);
  }
}

void AddWaiting(const ClusterSnapshot& snapshot, SnapshotFamilies& families) {
  const WaitingSnapshot& waiting = snapshot.waiting;
  for (size_t rank = 0; rank < waiting.waited_for.size(); ++rank) {
    families.Gauge("shoal_rank_waited_for_seconds",
                   "Seconds of a step that the other ranks wait for this one",
                   waiting.waited_for[rank], OfRank(RankId(static_cast<int32_t>(rank))));
  }
  for (size_t rank = 0; rank < waiting.waited_for.size(); ++rank) {
    const RankId id(static_cast<int32_t>(rank));
    families.Gauge("shoal_rank_straggler", "1 for the rank that holds up all others",
                   waiting.straggler == id, OfRank(id));
  }
  const size_t ranks = snapshot.workers.size();
  if (ranks > kMaxMatrixRanks) return;
  for (const auto& [phase, matrix] :
       {std::pair("dispatch", &waiting.dispatch), std::pair("combine", &waiting.combine)}) {
    if (matrix->size() != ranks * ranks) continue;
    for (size_t i = 0; i < matrix->size(); ++i) {
      families.Gauge("shoal_waiting_seconds", "Seconds of a step that one rank waits for another",
                     (*matrix)[i],
                     {{"phase", phase},
                      {"source", absl::StrCat(i / ranks)},
                      {"destination", absl::StrCat(i % ranks)}});
    }
  }
}

}  // namespace

std::vector<MetricFamily> ClusterFamilies(const ClusterSnapshot& snapshot, int http_connections,
                                          const Labels& labels) {
  SnapshotFamilies families(labels);
  families.Gauge("shoal_serving", "1 when requests are computed", snapshot.serving);
  families.Gauge("shoal_epoch", "Membership and placement in force",
                 static_cast<double>(snapshot.epoch.value()));
  families.Gauge("shoal_http_connections", "Open client connections", http_connections);
  AddLoad(snapshot, families);
  AddSafety(snapshot, families);
  AddWaiting(snapshot, families);
  return families.Take();
}

}  // namespace shoal
