// SPDX-License-Identifier: Apache-2.0
// See cluster_json.h.
#include "coordinator/api/cluster_json.h"

#include <nlohmann/json.hpp>
#include <utility>

namespace shoal {

std::string ClusterJson(const ClusterSnapshot& snapshot) {
  using Json = nlohmann::ordered_json;
  Json json;
  json["epoch"] = snapshot.epoch.value();
  json["serving"] = snapshot.serving;
  json["workers"] = Json::array();
  for (const WorkerSnapshot& worker : snapshot.workers) {
    Json entry;
    entry["rank"] = worker.rank.value();
    entry["pid"] = worker.pid;
    entry["host"] = worker.host;
    entry["state"] = worker.state;
    entry["experts"] = worker.experts;
    entry["blocks_used"] = worker.blocks_used;
    entry["blocks_total"] = worker.blocks_total;
    entry["running_sequences"] = worker.running_sequences;
    entry["tokens_per_s"] = worker.tokens_per_s;
    json["workers"].push_back(std::move(entry));
  }
  json["requests_running"] = snapshot.requests_running;
  json["requests_waiting"] = snapshot.requests_waiting;
  json["prefix_cache_queries"] = snapshot.prefix_cache_queries;
  json["prefix_cache_hits"] = snapshot.prefix_cache_hits;
  json["preemptions"] = snapshot.preemptions;
  json["prompt_tokens"] = snapshot.prompt_tokens;
  json["generation_tokens"] = snapshot.generation_tokens;
  json["steps"] = snapshot.steps;
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace shoal
