// SPDX-License-Identifier: Apache-2.0
// See cluster_json.h.
#include "coordinator/api/cluster_json.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "engine/base/steady_clock.h"

namespace shoal {
namespace {

using Json = nlohmann::ordered_json;

Json DeathJson(const DeathCost& death) {
  return {{"sequences", death.sequences},
          {"tokens", death.tokens},
          {"experts_left_with_one", death.experts_left_with_one},
          {"experts_lost", death.experts_lost},
          {"pauses", death.pauses}};
}

// Phases in milliseconds since the suspicion; null while they last.
Json RecoveryJson(const Recovery& recovery) {
  const auto since_suspected = [&](absl::Time end) -> Json {
    if (end == absl::InfiniteFuture()) return nullptr;
    return absl::ToDoubleMilliseconds(end - recovery.suspected);
  };
  return {{"epoch", recovery.epoch.value()},
          {"cause", CauseName(recovery.cause)},
          {"who", recovery.who},
          {"why", recovery.why},
          {"suspected_unix_s", absl::ToUnixMillis(WallTime(recovery.suspected)) / 1000.0},
          {"silent_ms", absl::ToDoubleMilliseconds(recovery.suspected - recovery.heard)},
          {"decided_ms", since_suspected(recovery.decided)},
          {"fenced_ms", since_suspected(recovery.fenced)},
          {"resumed_ms", since_suspected(recovery.resumed)},
          {"paused", recovery.paused},
          {"rewound", recovery.rewound},
          {"replayed", recovery.replayed}};
}

// Rows: by source; columns: by destination.
Json MatrixJson(const std::vector<float>& matrix, size_t ranks) {
  Json rows = Json::array();
  if (matrix.size() != ranks * ranks) return rows;
  for (size_t source = 0; source < ranks; ++source) {
    rows.push_back(std::vector<float>(matrix.begin() + source * ranks,
                                      matrix.begin() + (source + 1) * ranks));
  }
  return rows;
}

Json WaitingJson(const WaitingSnapshot& waiting) {
  const size_t ranks = waiting.waited_for.size();
  Json json = {{"dispatch_s", MatrixJson(waiting.dispatch, ranks)},
               {"combine_s", MatrixJson(waiting.combine, ranks)},
               {"waited_for_s", waiting.waited_for}};
  json["straggler"] = waiting.straggler.has_value() ? Json(waiting.straggler->value()) : Json();
  return json;
}

}  // namespace

std::string ClusterJson(const ClusterSnapshot& snapshot) {
  Json json;
  json["epoch"] = snapshot.epoch.value();
  json["serving"] = snapshot.serving;
  json["paused"] = snapshot.paused;
  json["holders"] = {{"least", snapshot.least_holders},
                     {"most", snapshot.most_holders},
                     {"least_hosts", snapshot.least_hosts}};
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
    entry["death"] = DeathJson(worker.death);
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
  json["recoveries"] = Json::array();
  for (const Recovery& recovery : snapshot.recoveries) {
    json["recoveries"].push_back(RecoveryJson(recovery));
  }
  json["waiting"] = WaitingJson(snapshot.waiting);
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string ExpertLoadJson(const ClusterSnapshot& snapshot) {
  return Json({{"load", snapshot.expert_tokens}}).dump();
}

}  // namespace shoal
