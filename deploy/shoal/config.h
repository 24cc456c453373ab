// SPDX-License-Identifier: Apache-2.0
// The one configuration of `shoal serve`, `shoal coordinator` and `shoal worker`: defaults, then a
// YAML file, then flags. A field's name is its flag, its YAML key and its line in the log;
// config_fields.cc lists them all once.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace shoal {

struct ShoalConfig {
  // The model.
  std::string model;              // Hugging Face directory
  std::string served_model_name;  // empty: the directory's name
  std::string chat_format;        // empty: by the checkpoint; "v2", "v3", "r1", "r1-0528", "v3.1"

  // The unit.
  int workers = 1;                 // ranks of the expert-parallel unit
  std::string transport = "shm";   // "inprocess", "shm", "grpc", "mpi"
  std::string placement;           // file of ExpertPlacement::FromJson; empty: planned
  int holders = 1;                 // copies of every expert, on different workers
  int redundant_experts = 0;       // further copies in each layer
  std::string expert_load;         // file of tokens per expert; empty: all equally hot
  std::string coordinator;         // worker: where to dial, HOST:PORT
  std::string cluster_listen;      // serve, coordinator: where workers dial in, HOST:PORT
  std::string exchange_advertise;  // worker, transport grpc: the host by which peers reach this one
  std::string exchange_listen = "127.0.0.1:0";  // worker, transport grpc: where peers dial in
  std::string cluster_name;  // all workers' is the same; empty at the coordinator: the first one's
  std::string
      cluster_cert;  // PEM files of mutual TLS between coordinator and workers, and between workers
  std::string cluster_key;
  std::string cluster_ca;

  // Each worker's engine.
  std::string backend = "cpu";  // "cpu", "reference"
  int threads = 0;  // 0: the cores this process may use, shared among the workers of this command
  std::string
      cache_memory;  // per worker, bytes with a suffix "512M", "8G"; empty: see cache_blocks
  int64_t cache_blocks = 0;  // per worker; 0 (and no cache_memory): room for max_running full
                             // contexts, at most half of the memory that is left
  int block_tokens = 64;
  int max_batch_rows = 512;
  int max_running = 64;
  bool fp8_activations = false;

  // The scheduler.
  int max_queue = 1024;
  bool prefix_cache = true;
  double step_timeout_s = 30;
  double heartbeat_timeout_s = 0.3;
  double load_timeout_s = 7200;
  double drain_timeout_s = 30;

  // The API.
  std::string http = "127.0.0.1:8000";
  std::string tls_cert;
  std::string tls_key;
  std::string api_keys;
  bool insecure = false;

  std::string log_level = "info";

  // Set by `serve` for the workers it starts; no flags of the user's.
  bool supervised = false;        // leave when the coordinator does
  bool exit_with_parent = false;  // die with the process that started this one (under mpirun)
};

// Which subcommand a field belongs to.
enum ConfigCommand : unsigned { kServe = 1, kCoordinator = 2, kWorker = 4 };

// Everything that can be said about the values without touching a file or a socket. Errors:
// InvalidArgument naming the flag, what was wanted and what was found.
absl::Status ValidateConfig(const ShoalConfig& config, ConfigCommand command);

// Sets the fields named in `yaml` (a map). Errors: InvalidArgument naming the key and line:
// unknown, of another command, or of the wrong type.
absl::Status ApplyYaml(const std::string& yaml, ConfigCommand command, ShoalConfig& config);

// The fields of `command`, one "key: value" a line, as ApplyYaml reads them.
std::string ConfigToYaml(const ShoalConfig& config, ConfigCommand command);

// The flags that say what differs from the defaults, as a command line takes them: {"--workers=4",
// "--no-prefix-cache"}.
std::vector<std::string> ConfigToFlags(const ShoalConfig& config, ConfigCommand command);

// "4096", "512K", "8G", "1.5G" -> bytes; powers of 1024, an optional "B" or "iB". Errors:
// InvalidArgument.
absl::StatusOr<int64_t> ParseBytes(absl::string_view text);

// "HOST:PORT", "[V6]:PORT". Errors: InvalidArgument.
struct HostPort {
  std::string host;  // without brackets
  int port = 0;      // 0: any free one
  bool loopback() const;
};
absl::StatusOr<HostPort> ParseHostPort(absl::string_view text);

}  // namespace shoal
