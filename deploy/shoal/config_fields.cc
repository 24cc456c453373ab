// SPDX-License-Identifier: Apache-2.0
#include "deploy/shoal/config_fields.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"

namespace shoal {
namespace {

constexpr unsigned kAll = kServe | kCoordinator | kWorker;
constexpr unsigned kHead = kServe | kCoordinator;  // has the API
constexpr unsigned kEngine = kServe | kWorker;     // computes

using C = ShoalConfig;

const ConfigField kFields[] = {
    {"model", kAll, "Model", &C::model,
     "Hugging Face directory: config.json, safetensors, tokenizer"},
    {"served-model-name", kHead, "Model", &C::served_model_name,
     "what clients call it (default: the directory's name)"},
    {"chat-format", kHead, "Model", &C::chat_format,
     "v2, v3, r1, r1-0528 or v3.1 (default: by the checkpoint)"},

    {"workers", kHead, "Cluster", &C::workers, "ranks of the expert-parallel unit"},
    {"transport", kEngine, "Cluster", &C::transport, "inprocess, shm, grpc or mpi"},
    {"placement", kHead, "Cluster", &C::placement,
     "JSON file: which ranks hold which expert, "
     "{\"world_size\": 2, \"layers\": [[], [[0], [0, 1]]]} "
     "(default: planned; contiguous with one holder and no --expert-load)"},
    {"holders", kHead, "Cluster", &C::holders,
     "workers that hold each expert: with 2, any one may die and nobody waits"},
    {"redundant-experts", kHead, "Cluster", &C::redundant_experts,
     "further copies in each layer, of the hottest experts by --expert-load"},
    {"expert-load", kHead, "Cluster", &C::expert_load,
     "JSON file: how many tokens each expert gets, {\"load\": [[], [120, 7.5]]} "
     "(default: all experts count as equally hot)"},
    {"coordinator", kWorker, "Cluster", &C::coordinator,
     "HOST:PORT of the coordinator's --cluster-listen"},
    {"cluster-listen", kHead, "Cluster", &C::cluster_listen, "HOST:PORT where workers dial in"},
    {"exchange-listen", kEngine, "Cluster", &C::exchange_listen,
     "HOST:PORT where peers dial in (transport grpc)"},
    {"exchange-advertise", kWorker, "Cluster", &C::exchange_advertise,
     "host by which peers reach this one (transport grpc; default: that of --exchange-listen)"},
    {"cluster-name", kAll, "Cluster", &C::cluster_name,
     "workers of another name are refused (a coordinator without one takes its first worker's)"},
    {"cluster-cert", kAll, "Cluster", &C::cluster_cert,
     "PEM certificate of this end of the cluster links: mutual TLS"},
    {"cluster-key", kAll, "Cluster", &C::cluster_key, "its PEM key"},
    {"cluster-ca", kAll, "Cluster", &C::cluster_ca,
     "PEM authority that signed the peers' certificates"},

    {"backend", kEngine, "Engine", &C::backend, "cpu (SIMD, threads) or reference (plain scalar)"},
    {"threads", kEngine, "Engine", &C::threads, "compute threads per worker (0: cores / workers)"},
    {"cache-memory", kEngine, "Engine", &C::cache_memory, "cache per worker: bytes, or 512M, 8G"},
    {"cache-blocks", kEngine, "Engine", &C::cache_blocks,
     "cache per worker in blocks (0: max-running contexts, at most half of the free memory)"},
    {"block-tokens", kAll, "Engine", &C::block_tokens, "tokens per cache block"},
    {"max-batch-rows", kAll, "Engine", &C::max_batch_rows, "rows of one step on one worker"},
    {"max-running", kAll, "Engine", &C::max_running, "sequences running on one worker"},
    {"fp8-activations", kEngine, "Engine", &C::fp8_activations,
     "the official FP8 numerics (FP8 checkpoints)"},

    {"max-queue", kHead, "Scheduler", &C::max_queue, "waiting requests; beyond: 429"},
    {"prefix-cache", kHead, "Scheduler", &C::prefix_cache,
     "share the cache of equal prompt beginnings"},
    {"step-timeout-s", kHead, "Scheduler", &C::step_timeout_s, "a step that takes longer fails"},
    {"heartbeat-timeout-s", kHead, "Scheduler", &C::heartbeat_timeout_s,
     "a worker silent for so long is lost"},
    {"load-timeout-s", kHead, "Scheduler", &C::load_timeout_s,
     "a worker that takes longer to load is lost"},
    {"drain-timeout-s", kHead, "Scheduler", &C::drain_timeout_s,
     "after SIGTERM, running requests may take so long"},

    {"http", kHead, "API", &C::http, "HOST:PORT to listen on; port 0 picks a free one"},
    {"tls-cert", kHead, "API", &C::tls_cert, "PEM certificate chain: HTTPS"},
    {"tls-key", kHead, "API", &C::tls_key, "its PEM key"},
    {"api-keys", kHead, "API", &C::api_keys, "file of accepted API keys, one a line"},
    {"insecure", kAll, "API", &C::insecure, "allow listening beyond loopback without TLS and keys"},

    {"log-level", kAll, "Log", &C::log_level, "trace, debug, info, warn, error or off"},

    {"supervised", kWorker, "", &C::supervised, "leave when the coordinator does"},
    {"exit-with-parent", kWorker, "", &C::exit_with_parent,
     "die with the process that started this one"},
};

}  // namespace

absl::Span<const ConfigField> ConfigFields() { return kFields; }

ConfigFlags::ConfigFlags(CLI::App& app, ConfigCommand command) : app_(app), command_(command) {
  app.add_option("--config", file_,
                 "YAML file of the flags below, without their dashes; flags win");
  for (const ConfigField& field : kFields) {
    if ((field.commands & command) == 0) continue;
    const std::string flag = absl::StrCat("--", field.name);
    if (const auto* member = std::get_if<bool ShoalConfig::*>(&field.member)) {
      const std::string opposite = absl::StrCat("--no-", field.name);
      const std::string help =
          flags_.*(*member) ? absl::StrCat(field.help, " (on; ", opposite, ")") : field.help;
      app.add_flag(flag, flags_.*(*member), help)->group(field.group);
      app.add_flag(opposite + "{false}", flags_.*(*member), "")->group("");
      continue;
    }
    CLI::Option* option = nullptr;
    std::visit(
        [&](auto m) {
          option = app.add_option(flag, flags_.*m, field.help)->capture_default_str();
        },
        field.member);
    option->group(field.group);
  }
}

absl::StatusOr<ShoalConfig> ConfigFlags::Resolve() const {
  ShoalConfig config;
  if (!file_.empty()) {
    std::ifstream in(file_);
    std::stringstream text;
    if (!in || !(text << in.rdbuf())) {
      return absl::NotFoundError(
          absl::StrCat("--config ", file_, ": cannot be read: ", std::strerror(errno)));
    }
    if (absl::Status status = ApplyYaml(text.str(), command_, config); !status.ok()) {
      return absl::Status(status.code(), absl::StrCat(file_, ": ", status.message()));
    }
  }
  for (const ConfigField& field : kFields) {
    if ((field.commands & command_) == 0) continue;
    size_t given = app_.count(absl::StrCat("--", field.name));
    if (std::holds_alternative<bool ShoalConfig::*>(field.member)) {
      given += app_.count(absl::StrCat("--no-", field.name));
    }
    if (given == 0) continue;
    std::visit([&](auto member) { config.*member = flags_.*member; }, field.member);
  }
  SHOAL_RETURN_IF_ERROR(ValidateConfig(config, command_));
  return config;
}

}  // namespace shoal
