// SPDX-License-Identifier: Apache-2.0
// `shoal status ADDR`: a cluster at a glance. Programs ask GET /cluster, as this does.
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "deploy/shoal/commands.h"
#include "deploy/shoal/http_get.h"
#include "engine/base/status_macros.h"

namespace shoal {
namespace {

using Json = nlohmann::json;

// Hosts of the workers that are here.
size_t CountHosts(const Json& cluster) {
  std::set<std::string> hosts;
  for (const Json& worker : cluster.value("workers", Json::array())) {
    if (worker.value("state", std::string()) != "gone") {
      hosts.insert(worker.value("host", std::string()));
    }
  }
  return hosts.size();
}

// How far the cluster is from losing an expert.
void PrintSafety(const Json& cluster) {
  const std::string paused = cluster.value("paused", std::string());
  if (!paused.empty()) {
    absl::PrintF("PAUSED until a worker has loaded what is missing: %s\n\n", paused);
    return;
  }
  const Json holders = cluster.value("holders", Json::object());
  const int64_t least = holders.value("least", int64_t{0});
  const int64_t most = holders.value("most", int64_t{0});
  absl::PrintF("every expert is held by %d%s worker%s%s\n", least,
               most == least ? "" : absl::StrCat(" to ", most), most == 1 ? "" : "s",
               least >= 2 ? ": any one may die" : "");
  if (least >= 2 && holders.value("least_hosts", int64_t{0}) == 1 && CountHosts(cluster) > 1) {
    absl::PrintF("some experts are held on one host only: requests would pause if it died\n");
  }
  absl::PrintF("\n");
}

// "12 sequences, 340 tokens again".
std::string IfItDied(const Json& worker) {
  if (worker.value("state", std::string()) != "serving") return "-";
  const Json death = worker.value("death", Json::object());
  std::string cost = absl::StrCat(death.value("sequences", int64_t{0}), " sequences, ",
                                  death.value("tokens", int64_t{0}), " tokens again");
  if (const int64_t one = death.value("experts_left_with_one", int64_t{0}); one > 0) {
    absl::StrAppend(&cost, ", ", one, " experts with one holder");
  }
  if (const int64_t lost = death.value("experts_lost", int64_t{0}); lost > 0) {
    absl::StrAppend(&cost, ", ", lost, " experts lost");
  }
  if (death.value("pauses", false)) absl::StrAppend(&cost, "; requests would pause");
  return cost;
}

// Milliseconds that one rank waits for another in a step, over both phases.
void PrintWaiting(const Json& waiting) {
  const Json dispatch = waiting.value("dispatch_s", Json::array());
  const Json combine = waiting.value("combine_s", Json::array());
  if (dispatch.empty() || combine.size() != dispatch.size()) return;
  absl::PrintF("\nms of a step that a rank (column) waits for another (row): dispatch + combine\n");
  absl::PrintF("%4s ", "");
  for (size_t to = 0; to < dispatch.size(); ++to) absl::PrintF("%14d", to);
  absl::PrintF("\n");
  for (size_t from = 0; from < dispatch.size(); ++from) {
    absl::PrintF("%4d ", from);
    for (size_t to = 0; to < dispatch.size(); ++to) {
      absl::PrintF("%14s", absl::StrFormat("%.2f + %.2f", 1e3 * dispatch[from][to].get<double>(),
                                           1e3 * combine[from][to].get<double>()));
    }
    absl::PrintF("\n");
  }
  const Json straggler = waiting.value("straggler", Json());
  if (straggler.is_number()) {
    absl::PrintF("straggler: rank %d holds up the others\n", straggler.get<int>());
  }
}

std::string Milliseconds(const Json& value) {
  return value.is_number() ? absl::StrFormat("%.1f", value.get<double>()) : "-";
}

void PrintRecoveries(const Json& recoveries) {
  if (recoveries.empty()) return;
  absl::PrintF("\nlast changes, ms since the suspicion\n");
  absl::PrintF("%6s %-6s %8s %9s %9s %9s %9s %9s %9s  %s\n", "epoch", "cause", "ago", "silent",
               "decided", "fenced", "resumed", "rewound", "replayed", "who, why");
  for (const Json& recovery : recoveries) {
    const absl::Duration ago =
        absl::Now() -
        absl::FromUnixMillis(static_cast<int64_t>(1000 * recovery.value("suspected_unix_s", 0.0)));
    absl::PrintF("%6d %-6s %8s %9s %9s %9s %9s %9d %9d  %s: %s\n",
                 recovery.value("epoch", int64_t{0}), recovery.value("cause", std::string("?")),
                 absl::FormatDuration(absl::Trunc(ago, absl::Seconds(1))),
                 Milliseconds(recovery.value("silent_ms", Json())),
                 Milliseconds(recovery.value("decided_ms", Json())),
                 Milliseconds(recovery.value("fenced_ms", Json())),
                 Milliseconds(recovery.value("resumed_ms", Json())),
                 recovery.value("rewound", int64_t{0}), recovery.value("replayed", int64_t{0}),
                 recovery.value("who", std::string("?")), recovery.value("why", std::string("?")));
    const std::string paused = recovery.value("paused", std::string());
    if (!paused.empty()) absl::PrintF("%88s paused meanwhile: %s\n", "", paused);
  }
}

void Print(const std::string& address, const Json& cluster) {
  const int64_t queries = cluster.value("prefix_cache_queries", int64_t{0});
  const int64_t hits = cluster.value("prefix_cache_hits", int64_t{0});
  absl::PrintF("%s: %s, epoch %d\n", address,
               cluster.value("serving", false) ? "serving" : "not serving",
               cluster.value("epoch", int64_t{0}));
  const bool paused = !cluster.value("paused", std::string()).empty();
  absl::PrintF("requests: %d %s, %d waiting; tokens: %d of prompts, %d generated; steps: %d\n",
               cluster.value("requests_running", int64_t{0}),
               paused ? "interrupted and waiting to go on" : "running",
               cluster.value("requests_waiting", int64_t{0}),
               cluster.value("prompt_tokens", int64_t{0}),
               cluster.value("generation_tokens", int64_t{0}), cluster.value("steps", int64_t{0}));
  absl::PrintF("prefix cache: %d of %d prompt tokens found (%.1f %%); preemptions: %d\n\n", hits,
               queries,
               queries > 0 ? 100.0 * static_cast<double>(hits) / static_cast<double>(queries) : 0.0,
               cluster.value("preemptions", int64_t{0}));
  PrintSafety(cluster);
  absl::PrintF("%4s  %-9s %8s  %-20s %8s %19s %9s %9s  %s\n", "rank", "state", "pid", "host",
               "experts", "blocks used", "sequences", "tokens/s", "if it died now");
  for (const Json& worker : cluster.value("workers", Json::array())) {
    const std::string blocks = absl::StrCat(worker.value("blocks_used", int64_t{0}), " / ",
                                            worker.value("blocks_total", int64_t{0}));
    absl::PrintF("%4d  %-9s %8d  %-20s %8d %19s %9d %9.1f  %s\n", worker.value("rank", 0),
                 worker.value("state", std::string("?")), worker.value("pid", int64_t{0}),
                 worker.value("host", std::string("?")), worker.value("experts", int64_t{0}),
                 blocks, worker.value("running_sequences", int64_t{0}),
                 worker.value("tokens_per_s", 0.0), IfItDied(worker));
  }
  PrintWaiting(cluster.value("waiting", Json::object()));
  PrintRecoveries(cluster.value("recoveries", Json::array()));
}

absl::Status Show(HttpGetOptions options) {
  std::string address = options.url;
  if (!absl::StrContains(address, "://")) address = "http://" + address;
  address = std::string(absl::StripSuffix(address, "/"));
  options.url = address + "/cluster";
  SHOAL_ASSIGN_OR_RETURN(const std::string body, HttpGet(options));
  const Json cluster = Json::parse(body, nullptr, /*allow_exceptions=*/false);
  if (!cluster.is_object())
    return absl::DataLossError(absl::StrCat(address, " is no shoal: its answer is no JSON object"));
  try {
    Print(address, cluster);
  } catch (const Json::exception& error) {
    return absl::DataLossError(absl::StrCat(address, ": ", error.what()));
  }
  return absl::OkStatus();
}

}  // namespace

void AddStatusCommand(CLI::App& app, int& exit_code) {
  CLI::App* command = app.add_subcommand("status", "A running cluster: its workers and their load");
  auto options = std::make_shared<HttpGetOptions>();
  command->add_option("ADDR", options->url, "HOST:PORT or URL of the API")->required();
  command->add_option("--api-key", options->api_key, "if the API asks for one");
  command->add_option("--ca", options->ca_file,
                      "https: PEM authority to trust beside the system's");
  command->callback([options, &exit_code] { exit_code = ReportStatus("status", Show(*options)); });
}

}  // namespace shoal
