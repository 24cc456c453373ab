// SPDX-License-Identifier: Apache-2.0
#include "deploy/shoal/head.h"

#include <cstdio>
#include <map>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "coordinator/api/api_keys.h"
#include "deploy/shoal/build_id.h"
#include "engine/base/status_macros.h"
#include "engine/base/steady_clock.h"
#include "spdlog/spdlog.h"

namespace shoal {

// Bytes loaded by all workers, told by gRPC's threads.
class Head::LoadProgress {
 public:
  void Add(WorkerId worker, int64_t done, int64_t total) {
    absl::MutexLock lock(&mutex_);
    workers_[worker] = {done, total};
  }
  // "62 % of 1.2 GiB, 3 of 4 workers loading"; empty before the first news.
  std::string ToString(int workers) {
    absl::MutexLock lock(&mutex_);
    int64_t done = 0;
    int64_t total = 0;
    for (const auto& [worker, bytes] : workers_) done += bytes.first, total += bytes.second;
    if (total == 0) return "";
    return absl::StrCat(done * 100 / total, " % of ", total >> 20, " MiB, by ", workers_.size(),
                        " of ", workers, " workers");
  }

 private:
  absl::Mutex mutex_;
  std::map<WorkerId, std::pair<int64_t, int64_t>> workers_ ABSL_GUARDED_BY(mutex_);
};

Head::Head(const ShoalConfig& config, const ServedModel& model, HeadObservers observers)
    : config_(config),
      model_(model),
      observers_(std::move(observers)),
      progress_(std::make_unique<LoadProgress>()) {}

Head::~Head() { Stop(SteadyNow()); }

absl::Status Head::CheckFiles(const ShoalConfig& config) {
  if (config.api_keys.empty()) return absl::OkStatus();
  return ApiKeys::Load(config.api_keys).status();
}

absl::StatusOr<std::unique_ptr<Head>> Head::Create(const ShoalConfig& config,
                                                   const ServedModel& model,
                                                   HeadObservers observers) {
  std::unique_ptr<Head> head(new Head(config, model, std::move(observers)));
  CoordinatorOptions options;
  options.core.workers = config.workers;
  options.core.n_routed_experts = model.config.RoutedExperts();
  options.core.n_group = model.config.ExpertGroups();
  options.core.placement = model.placement;
  if (model.placement == nullptr) {  // the core plans one when it knows the workers' hosts
    options.core.holders = config.holders;
    options.core.redundant_experts = config.redundant_experts;
    options.core.expert_load = model.expert_load;
  }
  options.core.block_tokens = config.block_tokens;
  options.core.max_context = model.config.max_position_embeddings;
  options.core.max_batch_rows = config.max_batch_rows;
  options.core.max_running_sequences = config.max_running;
  options.core.max_queued_requests = config.max_queue;
  options.core.prefix_cache = config.prefix_cache;
  options.core.step_timeout = absl::Seconds(config.step_timeout_s);
  options.core.heartbeat_timeout = absl::Seconds(config.heartbeat_timeout_s);
  options.core.loading_timeout = absl::Seconds(config.load_timeout_s);
  SHOAL_RETURN_IF_ERROR(Validate(options.core));
  options.link.listen = config.cluster_listen.empty() ? "127.0.0.1:0" : config.cluster_listen;
  options.link.tls = LinkTls{config.cluster_cert, config.cluster_key, config.cluster_ca};
  options.link.identity.build = BuildId();
  options.link.identity.model = model.fingerprint;
  options.link.identity.cluster = config.cluster_name;
  options.link.identity.block_tokens = config.block_tokens;
  options.link.identity.max_batch_rows = config.max_batch_rows;
  options.link.identity.max_running = config.max_running;
  options.link.workers = config.workers;
  options.link.token_limit = model.tokenizer->vocab_size();
  options.link.on_progress = [progress = head->progress_.get()](const WorkerIdentity& worker,
                                                                int64_t done, int64_t total) {
    progress->Add(worker.worker, done, total);
  };
  options.link.on_failure = head->observers_.on_failure;
  options.link.on_evicted = head->observers_.on_evicted;
  options.link.on_connect_failed = [](const WorkerIdentity& worker, const absl::Status& why) {
    if (absl::IsAborted(why)) return;  // a later epoch has begun
    spdlog::warn("worker {} on {}: {}", worker.pid, worker.host, std::string(why.message()));
  };
  options.link.on_joined = head->observers_.on_joined;
  SHOAL_ASSIGN_OR_RETURN(head->coordinator_, Coordinator::Create(std::move(options)));

  ApiOptions api;
  api.listen = config.http;
  api.tls_certificate_file = config.tls_cert;
  api.tls_key_file = config.tls_key;
  api.api_keys_file = config.api_keys;
  api.insecure = config.insecure;
  api.served_model_name = model.name;
  api.version = BuildId();
  api.chat_format = model.chat_format;
  api.model = model.config;
  api.sampling = model.sampling;
  SHOAL_ASSIGN_OR_RETURN(head->api_,
                         ApiServer::Create(std::move(api), *model.tokenizer, *head->coordinator_));
  head->coordinator_->Start(*head->api_);
  return head;
}

absl::StatusOr<bool> Head::WaitUntilServing(StopSignal& stop) {
  absl::Time next_line = SteadyNow() + absl::Seconds(1);
  std::string last_line;
  while (!coordinator_->Snapshot().serving) {
    // Loading takes seconds to minutes: looking 50 times a second is soon enough and costs nothing.
    SHOAL_ASSIGN_OR_RETURN(const bool stopped, stop.Wait(SteadyNow() + absl::Milliseconds(20)));
    if (stopped) return false;
    if (SteadyNow() < next_line) continue;
    next_line = SteadyNow() + absl::Seconds(1);
    const std::string line = progress_->ToString(config_.workers);
    if (!line.empty() && line != last_line) spdlog::info("loading: {}", line);
    last_line = line;
  }
  return true;
}

absl::Status Head::Run(StopSignal& stop, const std::function<void()>& serving) {
  SHOAL_ASSIGN_OR_RETURN(const bool ready, WaitUntilServing(stop));
  if (!ready) return absl::OkStatus();
  serving();
  std::printf("listening on %s\n", api_->address().c_str());
  std::fflush(stdout);
  spdlog::info("serving {} with {} workers at {}", model_.name, config_.workers, api_->address());
  while (true) {
    SHOAL_ASSIGN_OR_RETURN(const bool stopped, stop.Wait(SteadyNow() + absl::Seconds(1)));
    if (stopped) break;
    if (observers_.on_snapshot) observers_.on_snapshot(coordinator_->Snapshot());
  }
  spdlog::info("draining: running requests have {} s", config_.drain_timeout_s);
  const absl::Time deadline = SteadyNow() + absl::Seconds(config_.drain_timeout_s);
  coordinator_->Post(DrainStarted{});
  api_->Stop(deadline);
  return absl::OkStatus();
}

void Head::Stop(absl::Time deadline) {
  if (api_ != nullptr) api_->Stop(deadline);
  if (coordinator_ != nullptr) coordinator_->Stop(deadline);
}

}  // namespace shoal
