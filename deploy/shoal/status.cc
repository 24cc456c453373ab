// SPDX-License-Identifier: Apache-2.0
// `shoal status ADDR`: a cluster at a glance. Programs ask GET /cluster, as this does.
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "deploy/shoal/commands.h"
#include "deploy/shoal/http_get.h"
#include "engine/base/status_macros.h"

namespace shoal {
namespace {

using Json = nlohmann::json;

void Print(const std::string& address, const Json& cluster) {
  const int64_t queries = cluster.value("prefix_cache_queries", int64_t{0});
  const int64_t hits = cluster.value("prefix_cache_hits", int64_t{0});
  absl::PrintF("%s: %s, epoch %d\n", address,
               cluster.value("serving", false) ? "serving" : "not serving",
               cluster.value("epoch", int64_t{0}));
  absl::PrintF("requests: %d running, %d waiting; tokens: %d of prompts, %d generated; steps: %d\n",
               cluster.value("requests_running", int64_t{0}),
               cluster.value("requests_waiting", int64_t{0}),
               cluster.value("prompt_tokens", int64_t{0}),
               cluster.value("generation_tokens", int64_t{0}), cluster.value("steps", int64_t{0}));
  absl::PrintF("prefix cache: %d of %d prompt tokens found (%.1f %%); preemptions: %d\n\n", hits,
               queries,
               queries > 0 ? 100.0 * static_cast<double>(hits) / static_cast<double>(queries) : 0.0,
               cluster.value("preemptions", int64_t{0}));
  absl::PrintF("%4s  %-9s %8s  %-20s %8s %19s %9s %9s\n", "rank", "state", "pid", "host", "experts",
               "blocks used", "sequences", "tokens/s");
  for (const Json& worker : cluster.value("workers", Json::array())) {
    const std::string blocks = absl::StrCat(worker.value("blocks_used", int64_t{0}), " / ",
                                            worker.value("blocks_total", int64_t{0}));
    absl::PrintF("%4d  %-9s %8d  %-20s %8d %19s %9d %9.1f\n", worker.value("rank", 0),
                 worker.value("state", std::string("?")), worker.value("pid", int64_t{0}),
                 worker.value("host", std::string("?")), worker.value("experts", int64_t{0}),
                 blocks, worker.value("running_sequences", int64_t{0}),
                 worker.value("tokens_per_s", 0.0));
  }
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
