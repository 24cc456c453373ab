// SPDX-License-Identifier: Apache-2.0
#include "deploy/shoal/bench_unit.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "deploy/shoal/cores.h"
#include "engine/base/status_macros.h"
#include "engine/base/steady_clock.h"
#include "engine/config/expert_placement.h"
#include "engine/parallel/local.h"

namespace shoal {
namespace {

constexpr absl::Duration kStepTimeout = absl::Minutes(5);
constexpr absl::Duration kConnectTimeout = absl::Minutes(1);
constexpr absl::Duration kSilenceTimeout = absl::Seconds(16);  // nobody brings a rank back
constexpr int kBlockTokens = 64;

// Messages between the ranks' processes outside the exchange: a length and so many bytes. An empty
// one says "done".
absl::Status Send(int socket, absl::string_view text) {
  std::string message(sizeof(uint32_t), '\0');
  const auto size = static_cast<uint32_t>(text.size());
  std::memcpy(message.data(), &size, sizeof(size));
  absl::StrAppend(&message, text);
  if (send(socket, message.data(), message.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(message.size())) {
    return absl::UnavailableError("a worker process is gone");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> Receive(int socket) {
  uint32_t size = 0;
  std::string text;
  const auto read_all = [&](void* data, size_t bytes) {
    return recv(socket, data, bytes, MSG_WAITALL) == static_cast<ssize_t>(bytes);
  };
  if (!read_all(&size, sizeof(size))) return absl::UnavailableError("a worker process is gone");
  text.resize(size);
  if (size > 0 && !read_all(text.data(), size))
    return absl::UnavailableError("a worker process is gone");
  return text;
}

// What a rank answers when it has done something: nothing, or what went wrong.
absl::Status ReceiveDone(int socket, int rank) {
  SHOAL_ASSIGN_OR_RETURN(const std::string error, Receive(socket));
  if (error.empty()) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("rank ", rank, ": ", error));
}

absl::StatusOr<std::unique_ptr<Kernels>> MakeKernels(const BenchOptions& options) {
  return CreateKernels(options.backend,
                       {.threads = options.threads > 0 ? options.threads : UsableCores()});
}

absl::StatusOr<std::unique_ptr<Fabric>> OpenFabric(const BenchOptions& options,
                                                   const ModelConfig& config,
                                                   const Kernels& kernels, pid_t cluster) {
  FabricOptions fabric;
  fabric.transport = options.transport;
  fabric.silence_timeout = kSilenceTimeout;
  fabric.cluster = absl::StrCat("bench-", cluster);
  fabric.max_message_bytes = Model::MaxMessageBytes(config, kernels, options.chunk);
  return Fabric::Create(fabric);
}

}  // namespace

BenchRank::BenchRank(const BenchOptions& options, int rank)
    : options_(options),
      sequences_((options.batch + options.workers - 1 - rank) / options.workers) {}

absl::StatusOr<std::unique_ptr<BenchRank>> BenchRank::Load(const BenchOptions& options,
                                                           const ModelConfig& config, int rank,
                                                           std::unique_ptr<Kernels> kernels,
                                                           Exchange* exchange) {
  std::unique_ptr<BenchRank> self(new BenchRank(options, rank));
  self->kernels_ = std::move(kernels);
  if (exchange == nullptr) {
    self->local_exchange_ = std::make_unique<LocalExchange>(
        Model::MaxMessageBytes(config, *self->kernels_, options.chunk));
    exchange = self->local_exchange_.get();
  }
  const int tokens = options.context + std::max(options.prompt, options.decode);
  const int blocks = (tokens + kBlockTokens - 1) / kBlockTokens;
  self->block_tables_.resize(self->sequences_);
  for (int i = 0; i < self->sequences_ * blocks; ++i) {
    self->block_tables_[i / blocks].emplace_back(i);
  }
  SHOAL_ASSIGN_OR_RETURN(const ExpertPlacement placement,
                         ExpertPlacement::Contiguous(options.workers, config.RoutedExperts()));
  ModelOptions model;
  model.rank = RankId(rank);
  model.max_batch_rows = options.chunk;
  model.max_logit_rows = std::max(1, self->sequences_);
  model.block_tokens = kBlockTokens;
  model.cache_blocks = std::max(1, self->sequences_ * blocks);
  model.fp8_activations = options.fp8_activations;
  SHOAL_ASSIGN_OR_RETURN(self->model_, Model::Load(options.model, config, placement, model,
                                                   *self->kernels_, *exchange));
  self->logits_.resize(static_cast<size_t>(model.max_logit_rows) * config.vocab_size);
  return self;
}

absl::Status BenchRank::Run(BenchPhase phase) {
  switch (phase) {
    case BenchPhase::kContext:
      SHOAL_RETURN_IF_ERROR(Prefill(0, options_.context));
      SHOAL_RETURN_IF_ERROR(Prefill(options_.context, std::min(options_.prompt, options_.chunk)));
      return absl::OkStatus();
    case BenchPhase::kPrefill:
      return Prefill(options_.context, options_.prompt);
    case BenchPhase::kDecode:
      for (int i = 0; i < options_.decode; ++i) {
        Batch batch;
        for (int s = 0; s < sequences_; ++s) {
          batch.sequences.push_back({s, 1, options_.context + i, block_tables_[s]});
          batch.logit_rows.push_back(s);
        }
        batch.tokens.resize(sequences_);
        SHOAL_RETURN_IF_ERROR(Step(batch));
      }
      return absl::OkStatus();
    case BenchPhase::kQuit:
      break;
  }
  return absl::OkStatus();
}

absl::Status BenchRank::Prefill(int begin, int count) {
  // Ranks with fewer sequences make as many steps as the first, which has the most.
  const int most = (options_.batch + options_.workers - 1) / options_.workers;
  Batch batch;
  for (int64_t done = 0; done < static_cast<int64_t>(most) * count;) {
    batch = {};
    int32_t rows = 0;
    while (rows < options_.chunk && done < static_cast<int64_t>(most) * count) {
      const auto sequence = static_cast<int>(done / count);
      const auto offset = static_cast<int32_t>(done % count);
      const int32_t taken = std::min(options_.chunk - rows, count - offset);
      if (sequence < sequences_) {
        batch.sequences.push_back({static_cast<int32_t>(batch.tokens.size()), taken, begin + offset,
                                   block_tables_[sequence]});
        batch.tokens.resize(batch.tokens.size() + taken);
        // A prompt's logits are wanted for its last token only.
        if (offset + taken == count) {
          batch.logit_rows.push_back(static_cast<int32_t>(batch.tokens.size()) - 1);
        }
      }
      rows += taken;
      done += taken;
    }
    SHOAL_RETURN_IF_ERROR(Step(batch));
  }
  return absl::OkStatus();
}

absl::Status BenchRank::Step(Batch& batch) {
  const auto vocab = static_cast<uint32_t>(model_->config().vocab_size);
  for (int32_t& token : batch.tokens) {
    random_ = random_ * 1664525u + 1013904223u;
    token = static_cast<int32_t>((random_ >> 8) % vocab);
  }
  const auto rows = static_cast<int64_t>(batch.logit_rows.size());
  return model_->Forward({Epoch(1), StepId(++step_), SteadyNow() + kStepTimeout}, batch,
                         TensorView(logits_.data(), DType::kF32, {rows, vocab}));
}

absl::StatusOr<std::unique_ptr<BenchUnit>> BenchUnit::Create(const BenchOptions& options,
                                                             const ModelConfig& config) {
  std::unique_ptr<BenchUnit> unit(new BenchUnit(options));
  SHOAL_RETURN_IF_ERROR(unit->Start(config));
  return unit;
}

BenchUnit::~BenchUnit() {
  for (const Peer& peer : peers_) {
    if (!Send(peer.socket, std::string(1, static_cast<char>(BenchPhase::kQuit))).ok()) {
      kill(peer.pid, SIGKILL);
    }
    close(peer.socket);
  }
  const absl::Time deadline = SteadyNow() + absl::Seconds(10);
  for (const Peer& peer : peers_) {
    while (waitpid(peer.pid, nullptr, WNOHANG) == 0) {
      if (SteadyNow() > deadline) kill(peer.pid, SIGKILL);
      absl::SleepFor(absl::Milliseconds(5));
    }
  }
}

absl::Status BenchUnit::Start(const ModelConfig& config) {
  const pid_t parent = getpid();
  for (int rank = 1; rank < options_.workers; ++rank) {
    int sockets[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0) {
      return absl::UnavailableError(absl::StrCat("socketpair: ", std::strerror(errno)));
    }
    const pid_t pid = fork();
    if (pid < 0) return absl::UnavailableError(absl::StrCat("fork: ", std::strerror(errno)));
    if (pid == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (getppid() != parent) _exit(1);
      for (const Peer& peer : peers_) close(peer.socket);
      close(sockets[0]);
      _exit(Serve(options_, config, rank, sockets[1]));
    }
    close(sockets[1]);
    peers_.push_back({pid, sockets[0]});
  }

  SHOAL_ASSIGN_OR_RETURN(auto kernels, MakeKernels(options_));
  Exchange* exchange = nullptr;
  if (options_.workers > 1) {
    SHOAL_ASSIGN_OR_RETURN(fabric_, OpenFabric(options_, config, *kernels, parent));
    std::vector<std::string> endpoints = {fabric_->endpoint()};
    for (size_t i = 0; i < peers_.size(); ++i) {
      SHOAL_ASSIGN_OR_RETURN(std::string endpoint, Receive(peers_[i].socket));
      if (endpoint.empty()) return ReceiveDone(peers_[i].socket, static_cast<int>(i) + 1);
      endpoints.push_back(std::move(endpoint));
    }
    for (const Peer& peer : peers_) {
      for (const std::string& endpoint : endpoints) {
        SHOAL_RETURN_IF_ERROR(Send(peer.socket, endpoint));
      }
    }
    SHOAL_ASSIGN_OR_RETURN(
        exchange, fabric_->Connect(Epoch(1), RankId(0), endpoints, SteadyNow() + kConnectTimeout));
  }
  SHOAL_ASSIGN_OR_RETURN(rank_, BenchRank::Load(options_, config, 0, std::move(kernels), exchange));
  for (size_t i = 0; i < peers_.size(); ++i) {
    SHOAL_RETURN_IF_ERROR(ReceiveDone(peers_[i].socket, static_cast<int>(i) + 1));
  }
  return absl::OkStatus();
}

int BenchUnit::Serve(const BenchOptions& options, const ModelConfig& config, int rank, int socket) {
  std::unique_ptr<Fabric> fabric;
  std::unique_ptr<BenchRank> self;
  const auto start = [&]() -> absl::Status {
    SHOAL_ASSIGN_OR_RETURN(auto kernels, MakeKernels(options));
    SHOAL_ASSIGN_OR_RETURN(fabric, OpenFabric(options, config, *kernels, getppid()));
    SHOAL_RETURN_IF_ERROR(Send(socket, fabric->endpoint()));
    std::vector<std::string> endpoints;
    for (int i = 0; i < options.workers; ++i) {
      SHOAL_ASSIGN_OR_RETURN(endpoints.emplace_back(), Receive(socket));
    }
    SHOAL_ASSIGN_OR_RETURN(Exchange * exchange, fabric->Connect(Epoch(1), RankId(rank), endpoints,
                                                                SteadyNow() + kConnectTimeout));
    SHOAL_ASSIGN_OR_RETURN(self,
                           BenchRank::Load(options, config, rank, std::move(kernels), exchange));
    return absl::OkStatus();
  };
  absl::Status status = start();
  if (fabric == nullptr) Send(socket, "").IgnoreError();  // instead of an endpoint
  while (status.ok()) {
    if (!Send(socket, "").ok()) return 1;
    const auto phase = Receive(socket);
    if (!phase.ok() || phase->size() != 1) return 1;
    if ((*phase)[0] == static_cast<char>(BenchPhase::kQuit)) return 0;
    status = self->Run(static_cast<BenchPhase>((*phase)[0]));
  }
  Send(socket, status.message()).IgnoreError();
  return 1;
}

absl::Status BenchUnit::Run(BenchPhase phase) {
  for (const Peer& peer : peers_) {
    SHOAL_RETURN_IF_ERROR(Send(peer.socket, std::string(1, static_cast<char>(phase))));
  }
  const absl::Status own = rank_->Run(phase);
  for (size_t i = 0; i < peers_.size(); ++i) {
    // A rank that failed says more than those that waited for it.
    SHOAL_RETURN_IF_ERROR(ReceiveDone(peers_[i].socket, static_cast<int>(i) + 1));
  }
  return own;
}

}  // namespace shoal
