// SPDX-License-Identifier: Apache-2.0
#include "deploy/shoal/worker_options.h"

#include <unistd.h>

#include "deploy/shoal/build_id.h"

namespace shoal {

WorkerOptions MakeWorkerOptions(const ShoalConfig& config, const ModelConfig& model,
                                const std::string& fingerprint, int64_t cache_blocks) {
  WorkerOptions options;
  options.model_directory = config.model;
  options.model = model;
  options.backend = config.backend;
  options.threads = config.threads;
  options.fp8_activations = config.fp8_activations;
  options.block_tokens = config.block_tokens;
  options.cache_blocks = cache_blocks;
  options.max_batch_rows = config.max_batch_rows;
  options.max_running = config.max_running;
  const TlsFiles tls{config.cluster_cert, config.cluster_key, config.cluster_ca};
  options.link.coordinator = config.coordinator;
  options.link.tls = tls;
  options.fabric.transport = config.transport;
  options.fabric.cluster = config.cluster_name;
  options.fabric.listen = config.exchange_listen;
  options.fabric.advertise = config.exchange_advertise;
  options.fabric.tls = tls;
  options.build = BuildId();
  options.fingerprint = fingerprint;
  char host[256] = "";
  gethostname(host, sizeof(host) - 1);
  options.host = host;
  options.supervised = config.supervised;
  return options;
}

}  // namespace shoal
